//! R24: events while relay and subscribers are killed and the sink loses a part
//! of the deliveries, over the mesh and over NATS.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, future::join_all, stream};
use mesh_proto::shop::{order::v1::Order, user::v1::Notification};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use uuid::Uuid;

use crate::{
    setting::ScenarioSetting,
    testbed::shop::{
        Clients, Plan, Service, Shop,
        lossy::{SINK_DROPS_ENV, SINK_FORGETS_ENV},
    },
    verdict::ScenarioOutcome,
};

/// The mechanism that is guarded.
const INBOX: &str = "inbox";
/// The percentage of deliveries that the sink loses.
const LOSS_PERCENT: &str = "30";
/// The number of concurrent customers, each of which orders repeatedly.
const CUSTOMERS: usize = 4;
/// The number of concurrent queries.
const CONCURRENCY: usize = 4;
/// The random downtime of a killed process, and the random time until the next
/// kill, in milliseconds.
const DOWNTIME_MS: std::ops::Range<u64> = 20..400;
const KILL_INTERVAL_MS: std::ops::Range<u64> = 200..1_500;
/// NATS is killed with every n-th kill.
const NATS_EVERY: usize = 5;
/// The limit on the time until everything is delivered.
const MAX_DRAIN: Duration = Duration::from_secs(30);
/// The limit on the wait for it.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);
/// The interval between two reads of the backlog.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// The result over one transport.
#[derive(Debug, Default)]
struct TransportResult {
    transport: &'static str,
    kills: usize,
    calls: usize,
    rejections: Vec<String>,
    diff: NotificationDiff,
    waiting: i64,
    parked: i64,
    /// The time from the last kill to the last finished order.
    lasted: Duration,
    /// The time from then until all was delivered.
    drained: Option<Duration>,
}

/// The difference between the notifications of customers and the events of
/// their orders.
#[derive(Debug, Default, PartialEq, Eq)]
struct NotificationDiff {
    /// The versions of orders, from their confirmation on.
    events: usize,
    missing: usize,
    /// Repeated notifications, or ones without an event.
    excess: usize,
    disordered: usize,
}

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let mesh = run_transport("the mesh", &setting, |plan| plan).await.context("over the mesh")?;
    let mut setting = setting;
    setting.logs.push("nats");
    std::fs::create_dir_all(&setting.logs).context("could not make a folder for the logs")?;
    let nats = run_transport("NATS", &setting, Plan::with_nats).await.context("over NATS")?;
    Ok(evaluate(&[mesh, nats]))
}

async fn run_transport(
    transport: &'static str,
    setting: &ScenarioSetting,
    plan: impl Fn(Plan) -> Plan,
) -> Result<TransportResult> {
    let mut planned = Plan::new(setting).env(Service::User, SINK_DROPS_ENV, LOSS_PERCENT);
    if setting.is_disabled(INBOX) {
        planned = planned.env(Service::User, SINK_FORGETS_ENV, "true");
    }
    let mut shop = Shop::start(plan(planned)).await?;
    shop.add_product("tea", 499, 1_000_000).await?;
    let kills = setting.sized(4, 50, 200);
    let clients = shop.clients()?;
    let stop = CancellationToken::new();
    let shoppers = join_all((0..CUSTOMERS).map(|n| shopper(&clients, n, &stop)));
    let killing = async {
        let killed = kill_replicas(&mut shop, kills).await;
        stop.cancel();
        killed
    };
    let (shopper_result, last_kill) = tokio::join!(shoppers, killing);
    // Orders that were delayed by the last kill make events after it.
    let lasted = last_kill?.elapsed();
    let last_kill = Instant::now();
    let mut result = TransportResult { transport, kills, lasted, ..TransportResult::default() };
    let mut customers = Vec::new();
    for shopper_result in shopper_result {
        result.calls += shopper_result.calls;
        result.rejections.extend(shopper_result.rejections);
        customers.extend(shopper_result.customers);
    }
    shop.all_passing().await?;
    drain(&clients, &customers, last_kill, &mut result).await?;
    Ok(result)
}

/// Kills so many processes, one after the other, each restarted before the next;
/// returns the time of the last kill.
async fn kill_replicas(shop: &mut Shop, kills: usize) -> Result<Instant> {
    let victims = [shop.indices_of(Service::Order), shop.indices_of(Service::User)].concat();
    let mut last_kill = Instant::now();
    for n in 1..=kills {
        sleep(Duration::from_millis(fastrand::u64(KILL_INTERVAL_MS))).await;
        let victim = *fastrand::choice(&victims).context("no replica to kill")?;
        // There is no NATS server over the mesh.
        let kills_nats = n % NATS_EVERY == 0 && shop.nats().is_ok();
        shop.kill(victim).await?;
        if kills_nats {
            shop.nats()?.kill().await?;
        }
        last_kill = Instant::now();
        sleep(Duration::from_millis(fastrand::u64(DOWNTIME_MS))).await;
        shop.restart(victim)?;
        if kills_nats {
            shop.nats()?.restart().await?;
        }
    }
    Ok(last_kill)
}

#[derive(Debug, Default)]
struct ShopperResult {
    /// One customer for each order.
    customers: Vec<String>,
    calls: usize,
    rejections: Vec<String>,
}

/// Orders, pays, and ships or cancels, repeatedly until `stop`.
async fn shopper(clients: &Clients, number: usize, stop: &CancellationToken) -> ShopperResult {
    let mut shopper_result = ShopperResult::default();
    while !stop.is_cancelled() {
        let customer = format!("customer-{number}-{}", shopper_result.customers.len());
        shopper_result.customers.push(customer.clone());
        let cancels = shopper_result.customers.len() % 3 == 0;
        if let Err(status) = shop_once(clients, &customer, cancels, &mut shopper_result.calls).await {
            shopper_result.rejections.push(format!("{customer}: {status}"));
        }
    }
    shopper_result
}

async fn shop_once(
    clients: &Clients,
    customer: &str,
    cancels: bool,
    calls: &mut usize,
) -> Result<(), Status> {
    clients.fill(customer, "tea", 1).await?;
    let ordered = clients.order(customer, &Uuid::now_v7().to_string()).await;
    *calls += ordered.attempts;
    let id = ordered.response?.order_id;
    let paid = clients.pay(&id, "pm_card").await;
    *calls += paid.attempts;
    paid.response?;
    let finished = if cancels { clients.cancel(&id).await } else { clients.ship(&id).await };
    *calls += finished.attempts;
    finished.response?;
    if !cancels {
        let completed = clients.complete(&id).await;
        *calls += completed.attempts;
        completed.response?;
    }
    Ok(())
}

/// Polls until all is delivered, or until the timeout. `last_kill` is the time of the
/// last kill or order.
async fn drain(
    clients: &Clients,
    customers: &[String],
    last_kill: Instant,
    result: &mut TransportResult,
) -> Result<()> {
    while last_kill.elapsed() < DRAIN_TIMEOUT + MAX_DRAIN {
        (result.waiting, result.parked) = clients.backlog().await?;
        if result.waiting == 0 {
            // Over NATS some events may be in the stream.
            result.diff = diff(clients, customers).await?;
            if result.diff.missing == 0 {
                result.drained = Some(last_kill.elapsed());
                break;
            }
        }
        // No event reports a delivery elsewhere, so it is polled.
        sleep(POLL_INTERVAL).await;
    }
    // Duplicates come later.
    sleep(POLL_INTERVAL * 4).await;
    (result.waiting, result.parked) = clients.backlog().await?;
    result.diff = diff(clients, customers).await?;
    Ok(())
}

async fn diff(clients: &Clients, customers: &[String]) -> Result<NotificationDiff, Status> {
    let diffs = stream::iter(customers.to_vec()).map(|customer| {
        let clients = clients.clone();
        async move {
            let orders = clients.orders_of(&customer).await?;
            let diff = clients.notifications(&customer).await?;
            Ok::<_, Status>(diff_of(&orders, &diff))
        }
    });
    let all: Vec<_> = diffs.buffer_unordered(CONCURRENCY).try_collect().await?;
    Ok(all.into_iter().fold(NotificationDiff::default(), |sum, one| NotificationDiff {
        events: sum.events + one.events,
        missing: sum.missing + one.missing,
        excess: sum.excess + one.excess,
        disordered: sum.disordered + one.disordered,
    }))
}

/// Compares the orders with the notifications. An order is recorded as version 1
/// without an event; every later change is one version and one event.
fn diff_of(orders: &[Order], diff: &[Notification]) -> NotificationDiff {
    let version = |etag: &str| etag.parse::<u64>().unwrap_or_default();
    let mut by_order: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for notification in diff {
        by_order.entry(&notification.order_id).or_default().push(version(&notification.order_etag));
    }
    let mut sum = NotificationDiff::default();
    for order in orders {
        let expected: Vec<u64> = (2..=version(&order.etag)).collect();
        let diff = by_order.remove(order.order_id.as_str()).unwrap_or_default();
        let missing = expected.iter().filter(|version| !diff.contains(version)).count();
        sum.events += expected.len();
        sum.missing += missing;
        sum.excess += (diff.len() + missing).saturating_sub(expected.len());
        sum.disordered += diff.windows(2).filter(|pair| pair[1] < pair[0]).count();
    }
    sum.excess += by_order.into_values().map(|diff| diff.len()).sum::<usize>();
    sum
}

fn evaluate(all: &[TransportResult]) -> ScenarioOutcome {
    let one = |result: &TransportResult| {
        let TransportResult { transport, lasted, diff, .. } = result;
        format!("{} events over {transport} (orders until {lasted:.1?} after the last kill)", diff.events)
    };
    let diff: Vec<String> = all.iter().map(one).collect();
    let kills: usize = all.iter().map(|result| result.kills).sum();
    let mut outcome = ScenarioOutcome {
        fault: format!("{kills} kills, {LOSS_PERCENT} % of deliveries lost, {}", diff.join(", ")),
        calls: all.iter().map(|result| result.calls).sum(),
        failed_idempotent: all.iter().map(|result| result.rejections.len()).sum(),
        attempts_per_call: 1.0,
        failures: all.iter().flat_map(|result| result.rejections.clone()).take(8).collect(),
        ..ScenarioOutcome::default()
    };
    for result in all {
        let TransportResult { diff, parked, waiting, drained, .. } = result;
        let count = |number: &i64| usize::try_from(*number).unwrap_or(usize::MAX);
        outcome.recovered(*drained);
        let enough = diff.events >= result.kills;
        outcome.figure(
            "events",
            diff.events.to_string(),
            format!("≥ {}", result.kills),
            enough,
            "the shoppers",
        );
        outcome.at_most("events not delivered", diff.missing, 0, "service-kit/events: outbox and relay");
        outcome.at_most("effects twice, or without an event", diff.excess, 0, "service-kit/events/inbox.rs");
        outcome.at_most("effects out of order", diff.disordered, 0, "service-kit/events/queue.rs: due");
        outcome.at_most("events parked", count(parked), 0, "service-kit/events/relay.rs: fate");
        outcome.at_most("events waiting", count(waiting), 0, "service-kit/events/relay.rs");
        outcome.within(
            "drained after the last kill and order",
            *drained,
            MAX_DRAIN,
            "service-kit/lease.rs: the relay",
        );
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(versions: &[u64]) -> NotificationDiff {
        let order = Order { order_id: "a".into(), etag: "4".into(), ..Order::default() };
        let diff = versions.iter().map(|version| Notification {
            order_id: "a".into(),
            order_etag: version.to_string(),
            ..Notification::default()
        });
        diff_of(&[order], &diff.collect::<Vec<_>>())
    }

    #[test]
    fn what_is_missing_doubled_or_disordered_is_seen() {
        let diff = |missing, excess, disordered| NotificationDiff { events: 3, missing, excess, disordered };
        assert_eq!(result(&[2, 3, 4]), diff(0, 0, 0));
        assert_eq!(result(&[2, 4]), diff(1, 0, 0));
        assert_eq!(result(&[2, 3, 3, 4]), diff(0, 1, 0));
        assert_eq!(result(&[2, 3, 2, 4]), diff(0, 1, 1));
        assert_eq!(result(&[3, 2, 4]), diff(0, 0, 1));
        assert_eq!(result(&[2, 3, 4, 5]), diff(0, 1, 0));
    }
}
