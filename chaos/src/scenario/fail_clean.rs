//! R26: whatever a service needs of its machine fails, one thing after the
//! other, while it is called: disk, file descriptors, database server.

use std::time::Duration;

use anyhow::{Context, Result};
use mesh_proto::shop::cart::v1::GetCartRequest;
use tokio::time::{Instant, sleep};
use tonic::Code;

use crate::{
    cli::Database,
    print_line,
    testbed::{
        ScenarioSetting,
        shop::{Plan, Service, Shop, retry_until_definite},
    },
    verdict::ScenarioOutcome,
};

mod cart_load;
mod fault;

use cart_load::{Call, CartLoad, until};
use fault::Fault;

/// The mechanism that is guarded.
const TOLD: &str = "errors that the disk tells";
const FAULTS: [(&str, Fault); 3] = [
    ("fsync fails", Fault::Calls("fsync,fdatasync", "error=EIO")),
    ("the disk is full", Fault::Calls("pwrite64", "error=ENOSPC")),
    ("no file descriptors", Fault::Files),
];
/// A disk that fails as well, and says nothing.
const LIE: (&str, Fault) = ("fsync lies", Fault::Calls("fsync,fdatasync", "retval=0"));
/// How long it may take until a service says that it does not serve, and, once
/// the fault is over, that it does.
const NOTICED: Duration = Duration::from_secs(5);
const RECOVERED: Duration = Duration::from_secs(5);
/// How long a call may take to be refused.
const REFUSED: Duration = Duration::from_secs(2);
/// How much longer than promised is waited, so that a miss has its number.
const PATIENCE: Duration = Duration::from_secs(10);
/// Acknowledged calls before a fault, and after it.
const CALLS: usize = 20;

/// What was results of all faults.
#[derive(Debug, Default)]
struct FaultResults {
    faults: Vec<&'static str>,
    calls: usize,
    refused: usize,
    /// Acknowledged although nothing could be written.
    falsely: usize,
    /// Refused with anything but UNAVAILABLE.
    unclear: usize,
    slowest: Duration,
    /// The longest each; `None` for one that did not come.
    noticed: Vec<Option<Duration>>,
    recovered: Vec<Option<Duration>>,
    acknowledged: Vec<String>,
    lost: Vec<String>,
}

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let lasting = setting.sized(Duration::from_secs(2), Duration::from_secs(8), Duration::from_secs(30));
    let lies = setting.is_disabled(TOLD);
    let faults = if lies { vec![LIE] } else { FAULTS.to_vec() };
    let mut results = FaultResults::default();
    hurt(&mut results, ScenarioSetting { db: Database::Sqlite, ..setting.clone() }, &faults, lasting).await?;
    if !lies {
        let server = [("the database server is killed", Fault::Server)];
        hurt(&mut results, ScenarioSetting { db: Database::Postgres, ..setting }, &server, lasting).await?;
    }
    Ok(evaluate(results))
}

/// Has a shop of its own suffer one fault after the other.
async fn hurt(
    results: &mut FaultResults,
    setting: ScenarioSetting,
    faults: &[(&'static str, Fault)],
    lasting: Duration,
) -> Result<()> {
    let one = Service::ALL.into_iter().fold(Plan::new(&setting), |plan, service| plan.replicas(service, 1));
    let mut shop = Shop::start(one).await?;
    shop.add_product("tea", 499, 1_000_000).await?;
    for (n, (name, fault)) in faults.iter().enumerate() {
        suffer(results, &mut shop, &setting, (&format!("customer-{n}"), name, *fault), lasting)
            .await
            .with_context(|| format!("while {name}"))?;
    }
    results.lost.extend(lost(&shop, &std::mem::take(&mut results.acknowledged)).await?);
    Ok(())
}

async fn suffer(
    results: &mut FaultResults,
    shop: &mut Shop,
    setting: &ScenarioSetting,
    (customers, name, fault): (&str, &'static str, Fault),
    lasting: Duration,
) -> Result<()> {
    let victim = *shop.indices_of(Service::Cart).first().context("no cart-service")?;
    let (listen, process) = (shop.replicas[victim].1.listen, shop.replicas[victim].1.process()?);
    // Nobody calls it: it must notice by itself what everybody shares.
    let idle = shop.replicas[*shop.indices_of(Service::User).first().context("no user-service")?].1.listen;
    let cart_load = CartLoad::start(listen, customers)?;
    cart_load.acknowledged(CALLS, PATIENCE).await?;

    let fault_lasts = fault.inject(process, shop, setting).await?;
    let began = Instant::now();
    let mut noticed = None;
    if fault.is_total() {
        noticed = until(listen, false, NOTICED + PATIENCE).await?;
        if fault == Fault::Server {
            let idle = until(idle, false, NOTICED + PATIENCE).await?.map(|_| began.elapsed());
            noticed = noticed.zip(idle).map(|(one, other)| one.max(other));
        }
        results.noticed.push(noticed);
    }
    let known = Instant::now();
    sleep(lasting).await;
    let over = Instant::now();
    fault_lasts.end(shop).await?;
    let ended = Instant::now();
    let mut recovered = until(listen, true, RECOVERED + PATIENCE).await?;
    if fault == Fault::Server {
        recovered = until(idle, true, RECOVERED + PATIENCE).await?.and(recovered).map(|_| ended.elapsed());
    }
    cart_load.acknowledged(CALLS, PATIENCE).await?;
    let calls = cart_load.end().await;

    // Of a server that is killed, what it was doing may still be done.
    let from = if fault == Fault::Server { known } else { began };
    let before = (results.falsely, results.unclear, results.refused);
    results.faults.push(name);
    results.recovered.push(recovered);
    results.note(calls, fault, (from, known, over));
    print_line(format_args!(
        "    {name}: noticed {noticed:.3?}, recovered {recovered:.3?}, {} refused, {} otherwise, {} falsely acknowledged",
        results.refused - before.2,
        results.unclear - before.1,
        results.falsely - before.0
    ));
    Ok(())
}

impl FaultResults {
    fn note(&mut self, calls: Vec<Call>, fault: Fault, (from, known, over): (Instant, Instant, Instant)) {
        self.calls += calls.len();
        for Call { customer, began, ended, code } in calls {
            let during = |from| began >= from && ended <= over;
            if code == Code::Ok {
                self.falsely += usize::from(fault.is_total() && during(from));
                self.acknowledged.push(customer);
                continue;
            }
            self.refused += 1;
            if during(known) && fault.is_total() {
                self.unclear += usize::from(code != Code::Unavailable);
                self.slowest = self.slowest.max(ended - began);
            }
        }
    }
}

/// Customers that were told of their cart, and have none.
async fn lost(shop: &Shop, acknowledged: &[String]) -> Result<Vec<String>> {
    let clients = shop.clients()?;
    let mut lost = Vec::new();
    for customer in acknowledged {
        let cart = retry_until_definite(|| {
            let (mut carts, customer_id) = (clients.carts.clone(), customer.clone());
            async move { carts.get_cart(GetCartRequest { customer_id }).await }
        });
        let cart = cart.await.response.context("a cart cannot be read")?;
        if cart.items.is_empty() {
            lost.push(customer.clone());
        }
    }
    Ok(lost)
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
        failed_other: results.refused,
        attempts_per_call: 1.0,
        failures: results
            .lost
            .iter()
            .take(8)
            .map(|customer| format!("lost the cart of {customer}"))
            .collect(),
        ..ScenarioOutcome::default()
    };
    outcome.detected(noticed);
    outcome.recovered(recovered);
    outcome.at_most("acknowledged and not there afterwards", results.lost.len(), 0, "service-kit/database");
    let look = "service-kit/database/sqlite/group.rs";
    outcome.at_most("acknowledged although nothing could be written", results.falsely, 0, look);
    outcome.at_most(
        "refused otherwise than by UNAVAILABLE",
        results.unclear,
        0,
        "service-kit/database/error.rs",
    );
    outcome.within("slowest refusal", Some(results.slowest), REFUSED, "service-kit/database.rs: what waits?");
    outcome.within("NOT_SERVING after", noticed, NOTICED, "service-kit/database: who probes?");
    outcome.within("SERVING again after", recovered, RECOVERED, "service-kit/database: who probes?");
    outcome
}
