//! R20: requests with the same key, repeated through random replicas, while
//! replicas are killed.

use std::{collections::HashSet, time::Duration};

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, future::join_all, stream};
use mesh_proto::shop::order::v1::Order;
use tokio::time::sleep;
use uuid::Uuid;

use crate::{
    setting::ScenarioSetting,
    testbed::shop::{Audit, Clients, Plan, Service, Shop},
    verdict::ScenarioOutcome,
};

/// The mechanism that is guarded.
const ONE_REQUEST_ID: &str = "one request id for all repetitions";
/// The services whose replicas are killed.
const VICTIMS: [Service; 4] = [Service::Order, Service::Product, Service::Cart, Service::Payment];
/// The number of concurrent keys, each with all its repetitions.
const CONCURRENCY: usize = 4;
/// The number of concurrent payments of each order.
const PAYMENTS_PER_ORDER: usize = 10;
/// The random delay of every second repetition in milliseconds, so that many
/// come after the first response or the first crash.
const DELAY_MS: std::ops::Range<u64> = 0..1_000;
/// The smallest number of kills.
const MIN_KILLS: usize = 5;
/// The limit on the time until no order is in progress.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The result of one key.
struct KeyResult {
    /// The number of distinct responses.
    orders: usize,
    /// The number of calls.
    calls: usize,
    /// The errors that callers got instead of an order.
    rejections: Vec<String>,
}

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let (keys, times) = setting.sized((28, 25), (100, 100), (200, 100));
    let plan = Plan::new(&setting).replicas(Service::Order, setting.sized(2, 3, 3));
    let mut shop = Shop::start(plan).await?;
    shop.add_product("tea", 499, 10_000_000).await?;
    let customers: Vec<_> = (0..keys).map(|n| format!("customer-{n}")).collect();
    let clients = shop.clients()?;
    let filling = stream::iter(customers.clone()).map(|customer| {
        let clients = clients.clone();
        async move { clients.fill(&customer, "tea", 2).await }
    });
    let _carts: Vec<_> =
        filling.buffer_unordered(CONCURRENCY).try_collect().await.context("could not fill the carts")?;

    let same_key = !setting.is_disabled(ONE_REQUEST_ID);
    let buying = async {
        let buying = stream::iter(customers.clone()).map(|customer| {
            let clients = clients.clone();
            async move { buy(&clients, &customer, times, same_key).await }
        });
        buying.buffer_unordered(CONCURRENCY).collect::<Vec<_>>().await
    };
    let (results, kills) = shop.while_killing(&VICTIMS, buying).await?;
    let audit = shop.settled_audit(&customers, SETTLE_TIMEOUT).await?;
    Ok(evaluate(&results, &audit, (keys, times, kills)))
}

/// Orders a cart `times` times, then pays the resulting orders.
async fn buy(clients: &Clients, customer: &str, times: usize, same_key: bool) -> KeyResult {
    let key = Uuid::now_v7().to_string();
    let order = |n| {
        let key = if same_key { key.clone() } else { Uuid::now_v7().to_string() };
        async move {
            let delay = if n % 2 == 0 { 0 } else { fastrand::u64(DELAY_MS) };
            sleep(Duration::from_millis(delay)).await;
            clients.order(customer, &key).await
        }
    };
    let calls = join_all((0..times).map(order)).await;
    let mut results = KeyResult { orders: 0, calls: 0, rejections: Vec::new() };
    let mut distinct_orders: Vec<Order> = Vec::new();
    for call in calls {
        results.calls += call.attempts;
        match call.response {
            Ok(order) if distinct_orders.contains(&order) => {}
            Ok(order) => distinct_orders.push(order),
            Err(status) => results.rejections.push(format!("CreateOrder: {status}")),
        }
    }
    results.orders = distinct_orders.len();
    for id in distinct_orders.iter().map(|order| &order.order_id).collect::<HashSet<_>>() {
        for call in join_all((0..PAYMENTS_PER_ORDER).map(|_| clients.pay(id, "pm_card"))).await {
            results.calls += call.attempts;
            results.rejections.extend(call.response.err().map(|status| format!("PayOrder: {status}")));
        }
    }
    results
}

fn evaluate(
    results: &[KeyResult],
    audit: &Audit,
    (keys, times, kills): (usize, usize, usize),
) -> ScenarioOutcome {
    let rejections: Vec<_> = results.iter().flat_map(|results| &results.rejections).collect();
    let mut outcome = ScenarioOutcome {
        fault: format!("{keys} keys, each {times} times within a second, {kills} replicas killed"),
        calls: results.iter().map(|results| results.calls).sum(),
        failed_idempotent: rejections.len(),
        attempts_per_call: 1.0,
        failures: rejections.into_iter().take(8).cloned().collect(),
        ..ScenarioOutcome::default()
    };
    let differing = results.iter().filter(|results| results.orders != 1).count();
    add_exact_figure(&mut outcome, "orders", audit.orders.len(), keys, "service-kit/idempotency.rs");
    add_exact_figure(
        &mut outcome,
        "charges",
        audit.charges.len(),
        keys,
        "payment-service: one charge for each key",
    );
    outcome.at_most(
        "keys without one same answer",
        differing,
        0,
        "service-kit/idempotency.rs: the stored answer",
    );
    outcome.at_most("rejected calls", outcome.failed_idempotent, 0, "order-service: the response");
    audit.evaluate(&mut outcome);
    let (killed, least) = (kills.to_string(), format!("≥ {MIN_KILLS}"));
    outcome.figure("replicas killed", killed, least, kills >= MIN_KILLS, "too few keys");
    outcome
}

fn add_exact_figure(
    outcome: &mut ScenarioOutcome,
    what: &'static str,
    is: usize,
    promised: usize,
    look: &'static str,
) {
    outcome.figure(what, is.to_string(), format!("= {promised}"), is == promised, look);
}
