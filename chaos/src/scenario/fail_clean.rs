//! R26: the resources of a service fail under load, one after the other: disk,
//! file descriptors, database server.

use std::time::Duration;

use anyhow::{Context, Result};
use mesh_proto::shop::cart::v1::GetCartRequest;
use tokio::time::{Instant, sleep};
use tonic::Code;

use crate::{
    setting::{Database, ScenarioSetting},
    terminal::print_line,
    testbed::shop::{Plan, Service, Shop, retry_until_definite},
    verdict::ScenarioOutcome,
};

mod cart_load;
mod fault;

use cart_load::{Call, CartLoad, time_until_serving};
use fault::Fault;

/// The mechanism that is guarded.
const DISK_ERRORS: &str = "errors that the disk reports";
const FAULTS: [(&str, Fault); 3] = [
    ("fsync fails", Fault::Calls("fsync,fdatasync", "error=EIO")),
    ("the disk is full", Fault::Calls("pwrite64", "error=ENOSPC")),
    ("no file descriptors", Fault::Files),
];
/// A disk that fails without an error.
const IGNORED_FSYNC: (&str, Fault) = ("fsync lies", Fault::Calls("fsync,fdatasync", "retval=0"));
/// The limits on the time until a service reports `NOT_SERVING`, and, after the
/// fault, SERVING.
const MAX_DETECTION: Duration = Duration::from_secs(5);
const MAX_RECOVERY: Duration = Duration::from_secs(5);
/// The limit on a rejection.
const MAX_REJECTION: Duration = Duration::from_secs(2);
/// The extra waiting time, so that a missed limit is measured.
const WAIT_MARGIN: Duration = Duration::from_secs(10);
/// The number of acknowledged calls before a fault, and after it.
const CALLS: usize = 20;

/// The results of all faults.
#[derive(Debug, Default)]
struct FaultResults {
    faults: Vec<&'static str>,
    calls: usize,
    rejected: usize,
    /// Calls that were acknowledged although nothing could be written.
    false_acknowledgements: usize,
    /// Calls that failed with another code than UNAVAILABLE.
    other_errors: usize,
    slowest_rejection: Duration,
    /// The detection and recovery time of each fault; `None` if it did not
    /// happen.
    noticed: Vec<Option<Duration>>,
    recovered: Vec<Option<Duration>>,
    acknowledged: Vec<String>,
    lost_carts: Vec<String>,
}

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let fault_time = setting.sized(Duration::from_secs(2), Duration::from_secs(8), Duration::from_secs(30));
    let has_ignored_fsync = setting.is_disabled(DISK_ERRORS);
    let faults = if has_ignored_fsync { vec![IGNORED_FSYNC] } else { FAULTS.to_vec() };
    let mut results = FaultResults::default();
    run_faults(
        &mut results,
        ScenarioSetting { db: Database::Sqlite, ..setting.clone() },
        &faults,
        fault_time,
    )
    .await?;
    if !has_ignored_fsync {
        let server = [("the database server is killed", Fault::Server)];
        run_faults(&mut results, ScenarioSetting { db: Database::Postgres, ..setting }, &server, fault_time)
            .await?;
    }
    Ok(evaluate(results))
}

/// Runs faults one after the other against a new shop.
async fn run_faults(
    results: &mut FaultResults,
    setting: ScenarioSetting,
    faults: &[(&'static str, Fault)],
    fault_time: Duration,
) -> Result<()> {
    let plan = Service::ALL.into_iter().fold(Plan::new(&setting), |plan, service| plan.replicas(service, 1));
    let mut shop = Shop::start(plan).await?;
    shop.add_product("tea", 499, 1_000_000).await?;
    for (n, (name, fault)) in faults.iter().enumerate() {
        run_fault(results, &mut shop, &setting, (&format!("customer-{n}"), name, *fault), fault_time)
            .await
            .with_context(|| format!("while {name}"))?;
    }
    results.lost_carts.extend(lost_carts(&shop, &std::mem::take(&mut results.acknowledged)).await?);
    Ok(())
}

async fn run_fault(
    results: &mut FaultResults,
    shop: &mut Shop,
    setting: &ScenarioSetting,
    (customers, name, fault): (&str, &'static str, Fault),
    fault_time: Duration,
) -> Result<()> {
    let victim = *shop.indices_of(Service::Cart).first().context("no cart-service")?;
    let (listen, process) = (shop.replicas[victim].1.listen, shop.replicas[victim].1.process()?);
    // It gets no calls and must detect by itself that the shared server fails.
    let idle = shop.replicas[*shop.indices_of(Service::User).first().context("no user-service")?].1.listen;
    let load = CartLoad::start(listen, customers)?;
    load.acknowledged(CALLS, WAIT_MARGIN).await?;

    let active_fault = fault.inject(process, shop, setting).await?;
    let began = Instant::now();
    let mut noticed = None;
    if fault.is_total() {
        noticed = time_until_serving(listen, false, MAX_DETECTION + WAIT_MARGIN).await?;
        if fault == Fault::Server {
            let idle =
                time_until_serving(idle, false, MAX_DETECTION + WAIT_MARGIN).await?.map(|_| began.elapsed());
            noticed = noticed.zip(idle).map(|(plan, other)| plan.max(other));
        }
        results.noticed.push(noticed);
    }
    let noticed_at = Instant::now();
    sleep(fault_time).await;
    let fault_end = Instant::now();
    active_fault.end(shop).await?;
    let ended = Instant::now();
    let mut recovered = time_until_serving(listen, true, MAX_RECOVERY + WAIT_MARGIN).await?;
    if fault == Fault::Server {
        recovered = time_until_serving(idle, true, MAX_RECOVERY + WAIT_MARGIN)
            .await?
            .and(recovered)
            .map(|_| ended.elapsed());
    }
    load.acknowledged(CALLS, WAIT_MARGIN).await?;
    let calls = load.end().await;

    // Calls in flight at a kill of the server may still succeed.
    let from = if fault == Fault::Server { noticed_at } else { began };
    let before = (results.false_acknowledgements, results.other_errors, results.rejected);
    results.faults.push(name);
    results.recovered.push(recovered);
    results.count(calls, fault, (from, noticed_at, fault_end));
    print_line(format_args!(
        "    {name}: noticed {noticed:.3?}, recovered {recovered:.3?}, {} rejected, {} with another code, {} falsely acknowledged",
        results.rejected - before.2,
        results.other_errors - before.1,
        results.false_acknowledgements - before.0
    ));
    Ok(())
}

impl FaultResults {
    fn count(
        &mut self,
        calls: Vec<Call>,
        fault: Fault,
        (from, noticed_at, fault_end): (Instant, Instant, Instant),
    ) {
        self.calls += calls.len();
        for Call { customer, began, ended, code } in calls {
            let during = |from| began >= from && ended <= fault_end;
            if code == Code::Ok {
                self.false_acknowledgements += usize::from(fault.is_total() && during(from));
                self.acknowledged.push(customer);
                continue;
            }
            self.rejected += 1;
            if during(noticed_at) && fault.is_total() {
                self.other_errors += usize::from(code != Code::Unavailable);
                self.slowest_rejection = self.slowest_rejection.max(ended - began);
            }
        }
    }
}

/// Customers whose cart was acknowledged and is empty.
async fn lost_carts(shop: &Shop, acknowledged: &[String]) -> Result<Vec<String>> {
    let clients = shop.clients()?;
    let mut lost_carts = Vec::new();
    for customer in acknowledged {
        let cart = retry_until_definite(|| {
            let (mut carts, customer_id) = (clients.carts.clone(), customer.clone());
            async move { carts.get_cart(GetCartRequest { customer_id }).await }
        });
        let cart = cart.await.response.context("a cart cannot be read")?;
        if cart.items.is_empty() {
            lost_carts.push(customer.clone());
        }
    }
    Ok(lost_carts)
}

fn evaluate(results: FaultResults) -> ScenarioOutcome {
    let longest = |all: &[Option<Duration>]| {
        let all: Option<Vec<Duration>> = all.iter().copied().collect();
        all.and_then(|all| all.into_iter().max())
    };
    let (noticed, recovered) = (longest(&results.noticed), longest(&results.recovered));
    let mut outcome = ScenarioOutcome {
        fault: results.faults.join("; "),
        calls: results.calls,
        failed_other: results.rejected,
        attempts_per_call: 1.0,
        failures: results
            .lost_carts
            .iter()
            .take(8)
            .map(|customer| format!("lost the cart of {customer}"))
            .collect(),
        ..ScenarioOutcome::default()
    };
    outcome.detected(noticed);
    outcome.recovered(recovered);
    outcome.at_most("acknowledged and lost", results.lost_carts.len(), 0, "service-kit/database");
    let look = "service-kit/database/sqlite/group.rs";
    outcome.at_most(
        "acknowledged although nothing could be written",
        results.false_acknowledgements,
        0,
        look,
    );
    outcome.at_most(
        "rejected with another code than UNAVAILABLE",
        results.other_errors,
        0,
        "service-kit/database/error.rs",
    );
    outcome.within(
        "slowest refusal",
        Some(results.slowest_rejection),
        MAX_REJECTION,
        "service-kit/database.rs: the waits",
    );
    outcome.within("NOT_SERVING after", noticed, MAX_DETECTION, "service-kit/database: the probe");
    outcome.within("SERVING again after", recovered, MAX_RECOVERY, "service-kit/database: the probe");
    outcome
}
