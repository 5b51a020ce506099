//! The throughput of event delivery: an outbox with many events, a subscriber that
//! counts them, each with a replica of its own and a SQLite file.
//! `cargo bench -p service-kit --bench events -- ROUNDS` runs it; it needs
//! `nats-server`.

use std::{
    env,
    error::Error,
    io::Write,
    time::{Duration, Instant},
};

use mesh_proto::shop::events::v1::{Event, ProductDeleted, event::Payload};
use service_kit::{
    database::{Database, Migration, Migrations, Transaction},
    events::{Events, HandleError, INBOX, OUTBOX, Outbox, Subscriber},
    lease::LEASES,
    nats::Nats,
    service::{self, Service, ServiceBuilder, ServiceContext},
    testing::{NatsServer, Replica, TestDatabase, mesh_of},
};

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

const PRODUCER: &str = "producer";
const CONSUMER: &str = "consumer";
/// Events that wait, of so many aggregates.
const WAITING: usize = 5_000;
const AGGREGATES: usize = 500;
/// The interval of polls for the end.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// The timeout of the whole run.
const TIMEOUT: Duration = Duration::from_mins(2);

fn main() -> Fallible<()> {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let rounds = args.first().map_or(Ok(5), |rounds| rounds.parse())?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut out = std::io::stdout();
        writeln!(out, "| way | events/s | least | most |\n|---|---|---|---|")?;
        for by_nats in [false, true] {
            let mut figures = Vec::new();
            for _ in 0..rounds {
                figures.push(round(by_nats).await?);
            }
            figures.sort_by(f64::total_cmp);
            let (least, most) = (figures[0], figures[figures.len() - 1]);
            let way = if by_nats { "NATS" } else { "mesh" };
            writeln!(out, "| {way} | {:.0} | {least:.0} | {most:.0} |", figures[figures.len() / 2])?;
        }
        Ok(())
    })
}

/// Events a second from the start of the relay until the last effect is durable.
async fn round(by_nats: bool) -> Fallible<f64> {
    let server = by_nats.then(NatsServer::start);
    let nats = match &server {
        Some(server) => Some(Nats::connect(&server.url(), "bench").await?),
        None => None,
    };
    let (sent, taken) = (TestDatabase::sqlite(), TestDatabase::sqlite());
    let counted = Database::open(taken.url(), &Consumer::MIGRATIONS).await?;
    let context =
        |mesh, database| ServiceContext { nats: nats.clone(), ..ServiceContext::open(mesh, database) };
    let to =
        context(mesh_of([(CONSUMER, vec![])]), Database::open(taken.url(), &Consumer::MIGRATIONS).await?);
    let consumer = Replica::start(|listener, stop| service::serve(Consumer, to, listener, stop)).await;
    let mesh = mesh_of([(CONSUMER, vec![consumer.address])]);
    let from = context(mesh, Database::open(sent.url(), &Producer::MIGRATIONS).await?);
    fill(&from).await?;
    let began = Instant::now();
    let producer = Replica::start(|listener, stop| service::serve(Producer, from, listener, stop)).await;
    loop {
        let row = counted.row("SELECT number FROM counted", &[]).await?.ok_or("nothing is counted")?;
        let number: i64 = row.get("number")?;
        if usize::try_from(number)? >= WAITING {
            break;
        }
        if began.elapsed() > TIMEOUT {
            return Err(format!("only {number} came within {TIMEOUT:?}").into());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    let per_second = WAITING as f64 / began.elapsed().as_secs_f64();
    producer.stop().await;
    consumer.stop().await;
    Ok(per_second)
}

async fn fill(context: &ServiceContext) -> Fallible<()> {
    let outbox = Outbox::of(context, PRODUCER, &[CONSUMER]);
    let mut open = context.database.begin().await?;
    for n in 0..WAITING {
        let thing = format!("thing-{}", n % AGGREGATES);
        let payload = Payload::ProductDeleted(ProductDeleted { product_id: thing.clone() });
        outbox.append(&mut open, &thing, i64::try_from(n / AGGREGATES + 1)?, payload).await?;
    }
    Ok(open.commit().await?)
}

struct Producer;

impl Service for Producer {
    const NAME: &'static str = PRODUCER;
    const VERSION: &'static str = "1";
    const MIGRATIONS: Migrations =
        Migrations { sqlite: &[OUTBOX.sqlite[0], LEASES.sqlite[0]], postgres: &[] };

    async fn build(
        &self,
        context: &ServiceContext,
        builder: ServiceBuilder,
    ) -> anyhow::Result<ServiceBuilder> {
        let outbox = Outbox::of(context, PRODUCER, &[CONSUMER]);
        Ok(Events::of(context, PRODUCER).send(outbox).add_to(builder))
    }
}

const COUNTED: Migration = Migration {
    name: "counted",
    sql: "CREATE TABLE counted (number INTEGER NOT NULL) STRICT; INSERT INTO counted (number) VALUES (0)",
};

struct Consumer;

impl Service for Consumer {
    const NAME: &'static str = CONSUMER;
    const VERSION: &'static str = "1";
    const MIGRATIONS: Migrations =
        Migrations { sqlite: &[COUNTED, INBOX.sqlite[0], LEASES.sqlite[0]], postgres: &[] };

    async fn build(
        &self,
        context: &ServiceContext,
        builder: ServiceBuilder,
    ) -> anyhow::Result<ServiceBuilder> {
        Ok(Events::of(context, CONSUMER).receive(&[PRODUCER], Counter).add_to(builder))
    }
}

/// Counts each event once, as its inbox sees to.
struct Counter;

#[tonic::async_trait]
impl Subscriber for Counter {
    async fn handle(&self, open: &mut Transaction, _: &Event) -> Result<(), HandleError> {
        open.execute("UPDATE counted SET number = number + 1", &[]).await?;
        Ok(())
    }
}
