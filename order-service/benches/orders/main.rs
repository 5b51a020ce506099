//! The cost of durable orders on SQLite: `CreateOrder` through a real channel, as
//! the service runs it, and the same code over a plain pool of eight writers.
//! `cargo xtask bench --writes` runs it.
//!
//! ```text
//! orders ROUNDS SECONDS     both in turns, as a table
//! orders SECONDS            as it is, for a profiler to look at
//! orders stored COUNT ROUNDS SECONDS
//!                           as it is on both databases, empty and with so many
//!                           orders of before, in turns
//! ```
//!
//! An order is three transactions and four calls, to dependencies that answer
//! everything at once, so that it is this service that is measured.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark fails by panicking")]

mod dependency;
mod stored;

use std::{
    env,
    io::Write,
    net::SocketAddr,
    time::{Duration, Instant},
};

use mesh_proto::shop::order::v1::{CreateOrderRequest, order_service_client::OrderServiceClient};
use order_service::{NAME, OrderService};
use registry_client::Channel;
use service_kit::{
    database::Database,
    service::{Service, ServiceContext, serve},
    testing::{Replica, TestDatabase, mesh_of, mesh_to},
};
use tokio::{net::TcpListener, task::JoinSet, time::sleep};
use tonic::Code;
use uuid::Uuid;

/// As the program has that runs the services.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CALLERS: usize = 64;
const WRITERS: u32 = 8;
/// The time a rejected caller waits.
const INITIAL_BACKOFF: Duration = Duration::from_millis(10);

fn main() {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let seconds = |text: &String| Duration::from_secs(text.parse().unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match &args[..] {
        [stored, count, rounds, time] if stored == "stored" => {
            let (count, rounds) = (count.parse().unwrap(), rounds.parse().unwrap());
            runtime.block_on(stored::compare(count, rounds, seconds(time)));
        }
        [rounds, time] => runtime.block_on(compare(rounds.parse().unwrap(), seconds(time))),
        [time] => runtime.block_on(async {
            let Round { per_second, p50, p99, .. } =
                Shop::open(TestDatabase::sqlite(), None).await.round(CALLERS, seconds(time)).await;
            let mut out = std::io::stdout();
            writeln!(out, "{per_second:.0} orders/s, p50 {p50:.2} ms, p99 {p99:.2} ms").unwrap();
        }),
        _ => panic!("usage: orders ROUNDS SECONDS"),
    }
}

async fn compare(rounds: usize, time: Duration) {
    let (plain, ours) = (TestDatabase::sqlite(), TestDatabase::sqlite());
    let (plain, ours) = (Shop::open(plain, Some(WRITERS)).await, Shop::open(ours, None).await);
    // The first order is not measured.
    for shop in [&plain, &ours] {
        shop.round(CALLERS, time / 4).await;
    }
    let (mut of_plain, mut of_ours) = (Vec::new(), Vec::new());
    for number in 0..rounds {
        // The order changes, so that none always comes after the other.
        if number % 2 == 0 {
            of_plain.push(plain.round(CALLERS, time).await);
            of_ours.push(ours.round(CALLERS, time).await);
        } else {
            of_ours.push(ours.round(CALLERS, time).await);
            of_plain.push(plain.round(CALLERS, time).await);
        }
    }
    let ratio = |of: fn(&Round) -> f64| {
        median(of_ours.iter().zip(&of_plain).map(|(ours, plain)| of(ours) / of(plain)).collect())
    };
    let mut out = std::io::stdout();
    writeln!(out, "| way | orders/s | p50 ms | p99 ms | refused | throughput ratio | p99 ratio |").unwrap();
    writeln!(out, "|---|---|---|---|---|---|---|").unwrap();
    let mut print_row = |way: &str, of: &[Round], throughput: f64, p99: f64| {
        let median = |of_round: fn(&Round) -> f64| median(of.iter().map(of_round).collect());
        let refused: usize = of.iter().map(|round| round.refused).sum();
        writeln!(
            out,
            "| {way} | {:.0} | {:.2} | {:.2} | {refused} | {throughput:.2} | {p99:.2} |",
            median(|round| round.per_second),
            median(|round| round.p50),
            median(|round| round.p99),
        )
        .unwrap();
    };
    print_row("pool of 8 writers", &of_plain, 1.0, 1.0);
    print_row("**as it is**", &of_ours, ratio(|round| round.per_second), ratio(|round| round.p99));
}

/// order-service with its dependencies, in this process.
struct Shop {
    orders: OrderServiceClient<Channel>,
    _database: TestDatabase,
    _service: Replica,
}

impl Shop {
    /// On `database`, over a plain pool of so many writers if any are given.
    async fn open(database: TestDatabase, writers: Option<u32>) -> Self {
        let kept = match writers {
            Some(writers) => Database::open_plain(database.url(), &OrderService::MIGRATIONS, writers).await,
            None => Database::open(database.url(), &OrderService::MIGRATIONS).await,
        };
        let [carts, products] = [dependency().await, dependency().await];
        let mesh = mesh_of([("cart-service", vec![carts]), ("product-service", vec![products])]);
        let context = ServiceContext::open(mesh, kept.unwrap());
        let service =
            Replica::start(|listener, shutdown| serve(OrderService::default(), context, listener, shutdown))
                .await;
        let orders = OrderServiceClient::new(mesh_to([service.address]).channel(NAME));
        Self { orders, _database: database, _service: service }
    }

    /// Runs callers for a time, each with the next order as soon as the last is
    /// acknowledged.
    async fn round(&self, callers: usize, time: Duration) -> Round {
        let began = Instant::now();
        let mut calling = JoinSet::new();
        for caller in 0..callers {
            let mut orders = self.orders.clone();
            calling.spawn(async move {
                let (mut latencies, mut refused) = (Vec::new(), 0);
                while began.elapsed() < time {
                    let request = CreateOrderRequest {
                        customer_id: format!("caller-{caller}"),
                        request_id: Uuid::new_v4().to_string(),
                        ..CreateOrderRequest::default()
                    };
                    let began = Instant::now();
                    // As callers do, until it is answered.
                    loop {
                        match orders.create_order(request.clone()).await {
                            Ok(_) => break,
                            Err(status)
                                if matches!(
                                    status.code(),
                                    Code::Unavailable | Code::Aborted | Code::ResourceExhausted
                                ) =>
                            {
                                refused += 1;
                                sleep(INITIAL_BACKOFF).await;
                            }
                            Err(status) => panic!("{status}"),
                        }
                    }
                    latencies.push(began.elapsed().as_secs_f64() * 1e3);
                }
                (latencies, refused)
            });
        }
        let (mut all, mut refused) = (Vec::new(), 0);
        while let Some(done) = calling.join_next().await {
            let (latencies, of_caller) = done.unwrap();
            all.extend(latencies);
            refused += of_caller;
        }
        let took = began.elapsed().as_secs_f64();
        all.sort_by(f64::total_cmp);
        let at = |share: f64| all[((all.len() - 1) as f64 * share) as usize];
        Round { per_second: all.len() as f64 / took, p50: at(0.50), p99: at(0.99), refused }
    }
}

struct Round {
    per_second: f64,
    p50: f64,
    p99: f64,
    refused: usize,
}

async fn dependency() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(dependency::answer(listener));
    address
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}
