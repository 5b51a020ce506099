//! R24: events while their relay and who takes them are killed, and the sink
//! loses a part of what it is brought; over the mesh and over NATS.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, future::join_all, stream};
use mesh_proto::shop::{order::v1::Order, user::v1::Notification};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use uuid::Uuid;

use crate::{
    testbed::{
        ScenarioSetting,
        shop::{
            Clients, Plan, Service, Shop,
            lossy::{SINK_DROPS_ENV, SINK_FORGETS_ENV},
        },
    },
    verdict::ScenarioOutcome,
};

/// The mechanism that is guarded.
const INBOX: &str = "inbox";
/// Percent of deliveries that the sink loses.
const LOST: &str = "30";
/// Customers who order one thing after the other.
const CUSTOMERS: usize = 4;
/// How many of them are asked about at once.
const AT_ONCE: usize = 4;
/// How long a killed process stays away, and how long until the next one is
/// killed: drawn from between these, in milliseconds.
const AWAY: std::ops::Range<u64> = 20..400;
const QUIET: std::ops::Range<u64> = 200..1_500;
/// Every so many kills NATS is killed too.
const NATS_EVERY: usize = 5;
/// After how long everything must be delivered.
const DRAINED: Duration = Duration::from_secs(30);
/// After how long it is not waited for any more.
const GIVEN_UP: Duration = Duration::from_secs(60);
/// How long to wait before it is looked again.
const AGAIN: Duration = Duration::from_millis(250);

/// What was result over one transport.
#[derive(Debug, Default)]
struct TransportResult {
    transport: &'static str,
    kills: usize,
    calls: usize,
    refusals: Vec<String>,
    told: Told,
    waiting: i64,
    parked: i64,
    /// How long after the last kill the last order was finished.
    lasted: Duration,
    /// From then until all was delivered.
    drained: Option<Duration>,
}

/// What customers were told, beside what their orders went through.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    /// Versions of orders, from their confirmation on.
    events: usize,
    missing: usize,
    /// Told again, or of what was not.
    excess: usize,
    disordered: usize,
}

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let mesh = over("the mesh", &setting, |plan| plan).await.context("over the mesh")?;
    let mut setting = setting;
    setting.logs.push("nats");
    std::fs::create_dir_all(&setting.logs).context("could not make a folder for the logs")?;
    let nats = over("NATS", &setting, Plan::with_nats).await.context("over NATS")?;
    Ok(evaluate(&[mesh, nats]))
}

async fn over(
    transport: &'static str,
    setting: &ScenarioSetting,
    plan: impl Fn(Plan) -> Plan,
) -> Result<TransportResult> {
    let mut planned = Plan::new(setting).env(Service::User, SINK_DROPS_ENV, LOST);
    if setting.is_disabled(INBOX) {
        planned = planned.env(Service::User, SINK_FORGETS_ENV, "true");
    }
    let mut shop = Shop::start(plan(planned)).await?;
    shop.add_product("tea", 499, 1_000_000).await?;
    let kills = setting.sized(4, 50, 200);
    let clients = shop.clients()?;
    let stop = CancellationToken::new();
    let shopping = join_all((0..CUSTOMERS).map(|n| shopper(&clients, n, &stop)));
    let firing = async {
        let fired = fire(&mut shop, kills).await;
        stop.cancel();
        fired
    };
    let (shopped, last) = tokio::join!(shopping, firing);
    // Orders that were held up by the last kill make events after it.
    let lasted = last?.elapsed();
    let last = Instant::now();
    let mut result = TransportResult { transport, kills, lasted, ..TransportResult::default() };
    let mut customers = Vec::new();
    for shopped in shopped {
        result.calls += shopped.calls;
        result.refusals.extend(shopped.refusals);
        customers.extend(shopped.customers);
    }
    shop.all_passing().await?;
    drain(&clients, &customers, last, &mut result).await?;
    Ok(result)
}

/// Kills so many processes, one after the other, each back before the next; when
/// the last of them was.
async fn fire(shop: &mut Shop, kills: usize) -> Result<Instant> {
    let victims = [shop.indices_of(Service::Order), shop.indices_of(Service::User)].concat();
    let mut last = Instant::now();
    for n in 1..=kills {
        sleep(Duration::from_millis(fastrand::u64(QUIET))).await;
        let victim = *fastrand::choice(&victims).context("no replica to kill")?;
        // Without NATS there is none to kill besides.
        let also = n % NATS_EVERY == 0 && shop.nats().is_ok();
        shop.kill(victim).await?;
        if also {
            shop.nats()?.kill().await?;
        }
        last = Instant::now();
        sleep(Duration::from_millis(fastrand::u64(AWAY))).await;
        shop.restart(victim)?;
        if also {
            shop.nats()?.restart().await?;
        }
    }
    Ok(last)
}

#[derive(Debug, Default)]
struct Shopped {
    /// One for each order.
    customers: Vec<String>,
    calls: usize,
    refusals: Vec<String>,
}

/// Orders, pays, and has it shipped or cancels it, until `stop`.
async fn shopper(clients: &Clients, number: usize, stop: &CancellationToken) -> Shopped {
    let mut shopped = Shopped::default();
    while !stop.is_cancelled() {
        let customer = format!("customer-{number}-{}", shopped.customers.len());
        shopped.customers.push(customer.clone());
        let cancels = shopped.customers.len() % 3 == 0;
        if let Err(status) = shop_once(clients, &customer, cancels, &mut shopped.calls).await {
            shopped.refusals.push(format!("{customer}: {status}"));
        }
    }
    shopped
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
    let ended = if cancels { clients.cancel(&id).await } else { clients.ship(&id).await };
    *calls += ended.attempts;
    ended.response?;
    if !cancels {
        let completed = clients.complete(&id).await;
        *calls += completed.attempts;
        completed.response?;
    }
    Ok(())
}

/// Looks until all is delivered, or for as long as may be. `last` is when nothing
/// was killed and ordered any more.
async fn drain(
    clients: &Clients,
    customers: &[String],
    last: Instant,
    result: &mut TransportResult,
) -> Result<()> {
    while last.elapsed() < GIVEN_UP + DRAINED {
        (result.waiting, result.parked) = clients.backlog().await?;
        if result.waiting == 0 {
            // Over NATS some may be in the stream.
            result.told = told(clients, customers).await?;
            if result.told.missing == 0 {
                result.drained = Some(last.elapsed());
                break;
            }
        }
        // Nobody tells of what was delivered elsewhere, so it is looked.
        sleep(AGAIN).await;
    }
    // What comes twice comes later.
    sleep(AGAIN * 4).await;
    (result.waiting, result.parked) = clients.backlog().await?;
    result.told = told(clients, customers).await?;
    Ok(())
}

async fn told(clients: &Clients, customers: &[String]) -> Result<Told, Status> {
    let asked = stream::iter(customers.to_vec()).map(|customer| {
        let clients = clients.clone();
        async move {
            let orders = clients.orders_of(&customer).await?;
            let told = clients.notifications(&customer).await?;
            Ok::<_, Status>(compare(&orders, &told))
        }
    });
    let all: Vec<_> = asked.buffer_unordered(AT_ONCE).try_collect().await?;
    Ok(all.into_iter().fold(Told::default(), |sum, one| Told {
        events: sum.events + one.events,
        missing: sum.missing + one.missing,
        excess: sum.excess + one.excess,
        disordered: sum.disordered + one.disordered,
    }))
}

/// An order is version 1 when it is recorded, which is told to nobody, and every
/// change after is one version and one event.
fn compare(orders: &[Order], told: &[Notification]) -> Told {
    let version = |etag: &str| etag.parse::<u64>().unwrap_or_default();
    let mut by_order: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for notification in told {
        by_order.entry(&notification.order_id).or_default().push(version(&notification.order_etag));
    }
    let mut sum = Told::default();
    for order in orders {
        let expected: Vec<u64> = (2..=version(&order.etag)).collect();
        let told = by_order.remove(order.order_id.as_str()).unwrap_or_default();
        let missing = expected.iter().filter(|version| !told.contains(version)).count();
        sum.events += expected.len();
        sum.missing += missing;
        sum.excess += (told.len() + missing).saturating_sub(expected.len());
        sum.disordered += told.windows(2).filter(|pair| pair[1] < pair[0]).count();
    }
    sum.excess += by_order.into_values().map(|told| told.len()).sum::<usize>();
    sum
}

fn evaluate(all: &[TransportResult]) -> ScenarioOutcome {
    let one = |result: &TransportResult| {
        let TransportResult { transport, lasted, told, .. } = result;
        format!("{} events over {transport} (orders until {lasted:.1?} after the last kill)", told.events)
    };
    let told: Vec<String> = all.iter().map(one).collect();
    let kills: usize = all.iter().map(|result| result.kills).sum();
    let mut outcome = ScenarioOutcome {
        fault: format!("{kills} kills, {LOST} % of deliveries lost, {}", told.join(", ")),
        calls: all.iter().map(|result| result.calls).sum(),
        failed_idempotent: all.iter().map(|result| result.refusals.len()).sum(),
        attempts_per_call: 1.0,
        failures: all.iter().flat_map(|result| result.refusals.clone()).take(8).collect(),
        ..ScenarioOutcome::default()
    };
    for result in all {
        let TransportResult { told, parked, waiting, drained, .. } = result;
        let count = |number: &i64| usize::try_from(*number).unwrap_or(usize::MAX);
        outcome.recovered(*drained);
        let enough = told.events >= result.kills;
        outcome.figure(
            "events",
            told.events.to_string(),
            format!("≥ {}", result.kills),
            enough,
            "the shoppers",
        );
        outcome.at_most("events not delivered", told.missing, 0, "service-kit/events: outbox and relay");
        outcome.at_most("effects twice, or of nothing", told.excess, 0, "service-kit/events/inbox.rs");
        outcome.at_most("effects out of order", told.disordered, 0, "service-kit/events/queue.rs: due");
        outcome.at_most("events parked", count(parked), 0, "service-kit/events/relay.rs: fate");
        outcome.at_most("events waiting", count(waiting), 0, "service-kit/events/relay.rs");
        outcome.within(
            "drained after the last kill and order",
            *drained,
            DRAINED,
            "service-kit/lease.rs: who relays?",
        );
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(versions: &[u64]) -> Told {
        let order = Order { order_id: "a".into(), etag: "4".into(), ..Order::default() };
        let told = versions.iter().map(|version| Notification {
            order_id: "a".into(),
            order_etag: version.to_string(),
            ..Notification::default()
        });
        compare(&[order], &told.collect::<Vec<_>>())
    }

    #[test]
    fn what_is_missing_doubled_or_disordered_is_seen() {
        let told = |missing, excess, disordered| Told { events: 3, missing, excess, disordered };
        assert_eq!(result(&[2, 3, 4]), told(0, 0, 0));
        assert_eq!(result(&[2, 4]), told(1, 0, 0));
        assert_eq!(result(&[2, 3, 3, 4]), told(0, 1, 0));
        assert_eq!(result(&[2, 3, 2, 4]), told(0, 1, 1));
        assert_eq!(result(&[3, 2, 4]), told(0, 0, 1));
        assert_eq!(result(&[2, 3, 4, 5]), told(0, 1, 0));
    }
}
