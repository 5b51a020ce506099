//! R20: the same key again and again, through whichever replica, while replicas
//! are killed.

use std::{collections::HashSet, time::Duration};

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, future::join_all, stream};
use mesh_proto::shop::order::v1::Order;
use tokio::time::sleep;
use uuid::Uuid;

use crate::{
    testbed::{
        ScenarioSetting,
        shop::{Audit, Clients, Plan, Service, Shop},
    },
    verdict::ScenarioOutcome,
};

/// The mechanism that is guarded.
const KEY: &str = "one request id for all repetitions";
/// Who may be killed.
const VICTIMS: [Service; 4] = [Service::Order, Service::Product, Service::Cart, Service::Payment];
/// Keys that are worked on at once, each with all its repetitions.
const AT_ONCE: usize = 4;
/// How often each order is paid at once.
const PAYMENTS: usize = 10;
/// Half of the repetitions come at once, the others somewhen in this time, in
/// milliseconds: many of them after the first answer, or the first crash.
const LATER: std::ops::Range<u64> = 0..1_000;
/// How many replicas are killed at least.
const KILLS: usize = 5;
/// After how long nothing may be under way any more.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);

/// What became of one key.
struct Bought {
    /// Answers that differ.
    orders: usize,
    /// Calls that were made for it.
    calls: usize,
    /// What callers were told instead of an order.
    refusals: Vec<String>,
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
        filling.buffer_unordered(AT_ONCE).try_collect().await.context("could not fill the carts")?;

    let same_key = !setting.is_disabled(KEY);
    let buying = async {
        let buying = stream::iter(customers.clone()).map(|customer| {
            let clients = clients.clone();
            async move { buy(&clients, &customer, times, same_key).await }
        });
        buying.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await
    };
    let (bought, kills) = shop.while_killing(&VICTIMS, buying).await?;
    let audit = shop.settled_audit(&customers, SETTLE_TIMEOUT).await?;
    Ok(evaluate(&bought, &audit, (keys, times, kills)))
}

/// Orders a cart `times` times, then pays for what came of it.
async fn buy(clients: &Clients, customer: &str, times: usize, same_key: bool) -> Bought {
    let key = Uuid::now_v7().to_string();
    let order = |n| {
        let key = if same_key { key.clone() } else { Uuid::now_v7().to_string() };
        async move {
            let later = if n % 2 == 0 { 0 } else { fastrand::u64(LATER) };
            sleep(Duration::from_millis(later)).await;
            clients.order(customer, &key).await
        }
    };
    let ordered = join_all((0..times).map(order)).await;
    let mut bought = Bought { orders: 0, calls: 0, refusals: Vec::new() };
    let mut answers: Vec<Order> = Vec::new();
    for insisted in ordered {
        bought.calls += insisted.attempts;
        match insisted.response {
            Ok(order) if answers.contains(&order) => {}
            Ok(order) => answers.push(order),
            Err(status) => bought.refusals.push(format!("CreateOrder: {status}")),
        }
    }
    bought.orders = answers.len();
    for id in answers.iter().map(|order| &order.order_id).collect::<HashSet<_>>() {
        for insisted in join_all((0..PAYMENTS).map(|_| clients.pay(id, "pm_card"))).await {
            bought.calls += insisted.attempts;
            bought.refusals.extend(insisted.response.err().map(|status| format!("PayOrder: {status}")));
        }
    }
    bought
}

fn evaluate(
    bought: &[Bought],
    audit: &Audit,
    (keys, times, kills): (usize, usize, usize),
) -> ScenarioOutcome {
    let refusals: Vec<_> = bought.iter().flat_map(|bought| &bought.refusals).collect();
    let mut outcome = ScenarioOutcome {
        fault: format!("{keys} keys, each {times} times within a second, {kills} replicas killed"),
        calls: bought.iter().map(|bought| bought.calls).sum(),
        failed_idempotent: refusals.len(),
        attempts_per_call: 1.0,
        failures: refusals.into_iter().take(8).cloned().collect(),
        ..ScenarioOutcome::default()
    };
    let differ = bought.iter().filter(|bought| bought.orders != 1).count();
    exactly(&mut outcome, "orders", audit.orders.len(), keys, "service-kit/idempotency.rs");
    exactly(&mut outcome, "charges", audit.charges.len(), keys, "payment-service: one charge for each key");
    outcome.at_most(
        "keys without one same answer",
        differ,
        0,
        "service-kit/idempotency.rs: the stored answer",
    );
    outcome.at_most("refused calls", outcome.failed_idempotent, 0, "order-service: what was answered?");
    audit.evaluate(&mut outcome);
    let (killed, least) = (kills.to_string(), format!("≥ {KILLS}"));
    outcome.figure("replicas killed", killed, least, kills >= KILLS, "the keys: are there too few?");
    outcome
}

fn exactly(
    outcome: &mut ScenarioOutcome,
    what: &'static str,
    is: usize,
    promised: usize,
    look: &'static str,
) {
    outcome.figure(what, is.to_string(), format!("= {promised}"), is == promised, look);
}
