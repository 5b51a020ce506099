//! What durable orders cost on SQLite: `CreateOrder` through a real channel, as
//! the service runs it, and the same code over a plain pool of eight writers.
//! `cargo xtask bench --writes` runs it.
//!
//! ```text
//! orders ROUNDS SECONDS     both in turns, as a table
//! orders SECONDS            as it is, for a profiler to look at
//! ```
//!
//! An order is three transactions and four calls; the neighbours that are
//! called answer from memory, so that it is this service's database that is
//! measured.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark fails by panicking")]

#[path = "../../tests/it/played/carts.rs"]
#[allow(dead_code, reason = "written for tests")]
mod carts;
#[path = "../../tests/it/played/mood.rs"]
#[allow(dead_code, reason = "written for tests")]
mod mood;
#[path = "../../tests/it/played/play.rs"]
mod play;
#[path = "../../tests/it/played/stock.rs"]
#[allow(dead_code, reason = "written for tests")]
mod stock;

use std::{
    env,
    io::Write,
    time::{Duration, Instant},
};

use carts::{PlayedCarts, item};
use mesh_proto::shop::{
    cart::v1::cart_service_server::CartServiceServer,
    order::v1::{CreateOrderRequest, order_service_client::OrderServiceClient},
    product::v1::product_service_server::ProductServiceServer,
};
use order_service::{NAME, OrderService};
use play::play;
use registry_client::Channel;
use service_kit::{
    database::Database,
    service::{Base, Service, serve},
    testing::{Replica, TestDatabase, mesh_of, mesh_to},
};
use stock::PlayedStock;
use tokio::{task::JoinSet, time::sleep};
use tonic::Code;
use uuid::Uuid;

/// As the program has that runs the services.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CALLERS: usize = 64;
const WRITERS: u32 = 8;
/// What a caller waits that was refused.
const PAUSE: Duration = Duration::from_millis(10);

fn main() {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let seconds = |text: &String| Duration::from_secs(text.parse().unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match &args[..] {
        [rounds, time] => runtime.block_on(compare(rounds.parse().unwrap(), seconds(time))),
        [time] => runtime.block_on(async {
            let Round { per_second, p50, p99, .. } = Shop::open(false).await.round(seconds(time)).await;
            let mut out = std::io::stdout();
            writeln!(out, "{per_second:.0} orders/s, p50 {p50:.2} ms, p99 {p99:.2} ms").unwrap();
        }),
        _ => panic!("usage: orders ROUNDS SECONDS"),
    }
}

async fn compare(rounds: usize, time: Duration) {
    let (plain, ours) = (Shop::open(true).await, Shop::open(false).await);
    // What is done the first time only is not measured.
    for shop in [&plain, &ours] {
        shop.round(time / 4).await;
    }
    let (mut of_plain, mut of_ours) = (Vec::new(), Vec::new());
    for number in 0..rounds {
        // The order changes, so that none always comes after the other.
        if number % 2 == 0 {
            of_plain.push(plain.round(time).await);
            of_ours.push(ours.round(time).await);
        } else {
            of_ours.push(ours.round(time).await);
            of_plain.push(plain.round(time).await);
        }
    }
    let ratio = |of: fn(&Round) -> f64| {
        median(of_ours.iter().zip(&of_plain).map(|(ours, plain)| of(ours) / of(plain)).collect())
    };
    let mut out = std::io::stdout();
    writeln!(out, "| way | orders/s | p50 ms | p99 ms | refused | throughput ratio | p99 ratio |").unwrap();
    writeln!(out, "|---|---|---|---|---|---|---|").unwrap();
    let mut tell = |way: &str, of: &[Round], throughput: f64, p99: f64| {
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
    tell("pool of 8 writers", &of_plain, 1.0, 1.0);
    tell("**as it is**", &of_ours, ratio(|round| round.per_second), ratio(|round| round.p99));
}

/// order-service with its neighbours, in this process.
struct Shop {
    orders: OrderServiceClient<Channel>,
    carts: PlayedCarts,
    _database: TestDatabase,
    _running: (Replica, [Replica; 2]),
}

impl Shop {
    async fn open(plain: bool) -> Self {
        let (carts, stock) = (PlayedCarts::default(), PlayedStock::default());
        let database = TestDatabase::sqlite();
        let kept = if plain {
            Database::open_plain(database.url(), &OrderService::MIGRATIONS, WRITERS).await
        } else {
            Database::open(database.url(), &OrderService::MIGRATIONS).await
        };
        let neighbours =
            [play(CartServiceServer::new(carts.clone())).await, play(ProductServiceServer::new(stock)).await];
        let [at_carts, at_stock] = neighbours.each_ref().map(|replica| vec![replica.address]);
        let mesh = mesh_of([("cart-service", at_carts), ("product-service", at_stock)]);
        let base = Base::open(mesh, kept.unwrap());
        let service =
            Replica::start(|listener, shutdown| serve::<OrderService>(base, listener, shutdown)).await;
        let orders = OrderServiceClient::new(mesh_to([service.address]).channel(NAME));
        Self { orders, carts, _database: database, _running: (service, neighbours) }
    }

    /// All callers for a time, each with the next order as soon as the last is
    /// acknowledged.
    async fn round(&self, time: Duration) -> Round {
        let began = Instant::now();
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let (mut orders, carts) = (self.orders.clone(), self.carts.clone());
            callers.spawn(async move {
                let (mut latencies, mut refused) = (Vec::new(), 0);
                while began.elapsed() < time {
                    let request = CreateOrderRequest {
                        customer_id: customer(caller),
                        request_id: Uuid::new_v4().to_string(),
                        ..CreateOrderRequest::default()
                    };
                    carts.put(&customer(caller), [item("tea", 499, 1), item("mug", 1_250, 2)]);
                    let asked = Instant::now();
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
                                sleep(PAUSE).await;
                            }
                            Err(status) => panic!("{status}"),
                        }
                    }
                    latencies.push(asked.elapsed().as_secs_f64() * 1e3);
                }
                (latencies, refused)
            });
        }
        let (mut all, mut refused) = (Vec::new(), 0);
        while let Some(done) = callers.join_next().await {
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

fn customer(caller: usize) -> String {
    format!("caller-{caller}")
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}
