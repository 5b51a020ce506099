//! The cost of durable units of work: through `Database`, and by the same
//! statements over a plain pool of sqlx. `cargo bench -p service-kit --bench
//! writes -- 3 2` runs it.
//!
//! ```text
//! writes ROUNDS SECONDS     both databases, the variants in turns, as a table
//! ```

mod unit;

use std::{
    env,
    error::Error,
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use service_kit::testing::TestDatabase;
use tokio::task::JoinSet;
use unit::Variant;

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

const CALLERS: usize = 64;

fn main() -> Fallible<()> {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let [rounds, seconds] = args[..] else { return Err("usage: writes ROUNDS SECONDS".into()) };
    let (rounds, time) = (rounds.parse()?, Duration::from_secs(seconds.parse()?));
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut out = std::io::stdout();
        writeln!(out, "| database | way | units/s | p50 ms | p99 ms | throughput ratio | p99 ratio |")?;
        writeln!(out, "|---|---|---|---|---|---|---|")?;
        let file = TestDatabase::sqlite();
        let rows = compare("SQLite", "pool of 8 writers", &file, rounds, time).await?;
        writeln!(out, "{rows}")?;
        let server = TestDatabase::durable_postgres().await;
        let rows = compare("PostgreSQL", "pool of 10", &server, rounds, time).await?;
        writeln!(out, "{rows}")?;
        Ok(())
    })
}

/// Both ways in turns; the medians of the rounds, and of their ratios.
async fn compare(
    name: &str,
    other: &str,
    database: &TestDatabase,
    rounds: usize,
    time: Duration,
) -> Fallible<String> {
    let ours = Arc::new(Variant::ours(database).await?);
    let pool = Arc::new(Variant::pool(database).await?);
    // One-time work is not measured.
    for variant in [&pool, &ours] {
        round(variant, time / 4).await?;
    }
    let (mut of_ours, mut of_pool) = (Vec::new(), Vec::new());
    for number in 0..rounds {
        // The order changes, so that none always comes after the other.
        if number % 2 == 0 {
            of_pool.push(round(&pool, time).await?);
            of_ours.push(round(&ours, time).await?);
        } else {
            of_ours.push(round(&ours, time).await?);
            of_pool.push(round(&pool, time).await?);
        }
    }
    let ratio = |of: fn(&Round) -> f64| {
        median(of_ours.iter().zip(&of_pool).map(|(ours, pool)| of(ours) / of(pool)).collect())
    };
    let row = |way: &str, of: &[Round], throughput: f64, p99: f64| {
        let median = |of_round: fn(&Round) -> f64| median(of.iter().map(of_round).collect());
        format!(
            "| {name} | {way} | {:.0} | {:.2} | {:.2} | {throughput:.2} | {p99:.2} |",
            median(|round| round.per_second),
            median(|round| round.p50),
            median(|round| round.p99),
        )
    };
    Ok(format!(
        "{}\n{}",
        row(other, &of_pool, 1.0, 1.0),
        row("**`Database`**", &of_ours, ratio(|round| round.per_second), ratio(|round| round.p99)),
    ))
}

struct Round {
    per_second: f64,
    p50: f64,
    p99: f64,
}

/// All callers for a time, each with the next unit as soon as the last is
/// acknowledged.
async fn round(variant: &Arc<Variant>, time: Duration) -> Fallible<Round> {
    let began = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let variant = variant.clone();
        callers.spawn(async move {
            let mut latencies = Vec::new();
            while began.elapsed() < time {
                let began = Instant::now();
                variant.write().await?;
                latencies.push(began.elapsed().as_secs_f64() * 1e3);
            }
            Fallible::Ok(latencies)
        });
    }
    let mut all = Vec::new();
    while let Some(done) = callers.join_next().await {
        all.extend(done??);
    }
    let took = began.elapsed().as_secs_f64();
    all.sort_by(f64::total_cmp);
    let at = |share: f64| all[((all.len() - 1) as f64 * share) as usize];
    Ok(Round { per_second: all.len() as f64 / took, p50: at(0.50), p99: at(0.99) })
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}
