//! R22: order-service is killed at each write of a checkout, and the checkout
//! still happens once, completely or not at all.
//!
//! Each crash is a real SIGKILL, which strace sends at the n-th time that a
//! thread of the process makes a system call, before the call has any effect.
//! The crash points cover all states that a crash can leave on disk and at other
//! processes: all writes before the point, and none from there on.
//!
//! The system calls are those that leave the process: SQLite writes log and
//! pages with `pwrite64` (and its vector forms) and makes them durable with
//! `fdatasync` and `fsync`; PostgreSQL, other services and callers are sent to
//! with `sendto`, `sendmsg` and `writev`. `write` is left out: it wakes threads
//! and writes the log, but reaches no peer and no database file. strace counts
//! each call separately and in each thread, so the process runs its tasks in one
//! thread, which gives writes and sends one order. A run of each checkout
//! without a crash counts the calls first; all its points, or an evenly spread
//! part of them, are then crash points.
//!
//! The work of a replica is resumed when its lease expires, after ten seconds.
//! To save time, several replicas, each with a database of its own, are killed
//! independently: only the next process on the same database resumes the work.
//! At every second point the customer waits until all is settled, so that only
//! [`RECOVERY`] can have settled it; at the others they retry immediately, as a
//! client does.

use std::{collections::VecDeque, sync::Mutex, time::Duration};

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use tokio::time::{Instant, sleep};
use tonic::Response;

use crate::{
    setting::ScenarioSetting,
    testbed::{
        Replica,
        shop::{Audit, Clients, Plan, RECOVERY, Service, Shop, retry_until_definite},
    },
    verdict::ScenarioOutcome,
};

mod buyer;
mod tracer;

use buyer::{Buyer, CALLS, CheckoutEnd, CustomerState};
use tracer::{CrashPoint, Tracer};

/// The limit on the time from a restart until no order is in progress.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The limit on the writes that follow the last response.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);
/// The interval between two reads until all is settled.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A planned crash.
#[derive(Debug)]
struct CrashPlan {
    end: CheckoutEnd,
    at: CrashPoint,
    /// True if the customer waits until all is settled before they retry.
    waits_for_recovery: bool,
}

/// A replica on a database of its own, and its customers.
struct CrashWorker<'a> {
    replica: &'a mut Replica,
    clients: Clients,
    customers: Vec<String>,
    setting: &'a ScenarioSetting,
}

/// The totals of all crashes.
#[derive(Debug, Default)]
struct CrashTotals {
    /// The number of crashes in each call of the checkout.
    crashed: [usize; CALLS + 1],
    not_reached: usize,
    calls: usize,
    lost: usize,
    wrong_order_count: usize,
    unmatched_charges: usize,
    unmatched_reservations: usize,
    unsettled: usize,
    rejected: usize,
    longest: Duration,
    errors: Vec<String>,
}

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let (workers, max_points, min_points) = setting.sized((14, 7, 10), (20, 60, 100), (24, usize::MAX, 100));
    let plan = Service::ALL.into_iter().fold(Plan::new(&setting), |plan, service| plan.replicas(service, 1));
    let plan = plan.replicas(Service::Order, workers).with_own_databases(Service::Order);
    let plan = plan.env(Service::Order, "TOKIO_WORKER_THREADS", "1");
    let mut shop = Shop::start(plan).await?;
    shop.add_product("tea", 499, 1_000_000).await?;
    let clients = shop.indices_of(Service::Order).into_iter().map(|n| shop.clients_of(&shop.replicas[n].1));
    let clients: Vec<_> = clients.collect::<Result<_>>()?;
    let replicas = shop.replicas.iter_mut().filter(|(service, _)| *service == Service::Order);
    let mut workers: Vec<_> = replicas
        .zip(&clients)
        .map(|((_, replica), clients)| CrashWorker {
            replica,
            clients: clients.clone(),
            customers: Vec::new(),
            setting: &setting,
        })
        .collect();
    // A first checkout opens all connections, which are not counted.
    try_join_all(workers.iter_mut().map(|worker| worker.run_checkout(CheckoutEnd::Shipped))).await?;
    let first = workers.first_mut().context("no replica")?;
    let (plan_crashes, point_count) = first.plan_crashes(max_points).await?;
    let plan_crashes = Mutex::new(plan_crashes);
    let sums = try_join_all(workers.iter_mut().map(|worker| worker.run_crashes(&plan_crashes))).await?;
    let sum = sums.into_iter().reduce(CrashTotals::add).unwrap_or_default();
    let customers = workers.into_iter().map(|worker| worker.customers);
    let customers_of: Vec<_> = clients.iter().cloned().zip(customers).collect();
    let audit = shop.settled_audit_of(&customers_of, SETTLE_TIMEOUT).await?;
    Ok(evaluate(sum, &audit, point_count, min_points))
}

impl CrashWorker<'_> {
    /// Creates another customer with two pieces in their cart.
    async fn buyer(&mut self, end: CheckoutEnd) -> Result<Buyer> {
        let customer = format!("{}-customer-{}", self.name(), self.customers.len());
        // A repeated call that adds twice as many does no harm.
        let filled = retry_until_definite(|| async {
            self.clients.fill(&customer, "tea", 2).await.map(Response::new)
        });
        filled.await.response.context("could not fill a cart")?;
        self.customers.push(customer.clone());
        Ok(Buyer::new(customer, end))
    }

    fn name(&self) -> String {
        format!("lane-{}", self.replica.listen.port())
    }

    /// Runs a checkout without a crash.
    async fn run_checkout(&mut self, end: CheckoutEnd) -> Result<()> {
        let mut buyer = self.buyer(end).await?;
        buyer.resume(&self.clients).await.context("a checkout without a crash failed").map(drop)
    }

    /// Counts the points of both checkouts; up to `max_points` of each, evenly
    /// spread, and how many there are.
    async fn plan_crashes(&mut self, max_points: usize) -> Result<(VecDeque<CrashPlan>, usize)> {
        let (mut plan_crashes, mut point_count) = (VecDeque::new(), 0);
        for end in [CheckoutEnd::Shipped, CheckoutEnd::Cancelled] {
            let mut buyer = self.buyer(end).await?;
            let tracer =
                Tracer::trace_writes(self.replica.process()?, &self.name(), &self.setting.logs).await?;
            buyer.resume(&self.clients).await.context("a traced checkout failed")?;
            let points = tracer.detach().await?;
            point_count += points.len();
            let chosen = max_points.min(points.len());
            plan_crashes.extend((0..chosen).map(|n| {
                let at = points[n * points.len() / chosen].clone();
                CrashPlan { end, at, waits_for_recovery: n % 2 == 1 }
            }));
        }
        Ok((plan_crashes, point_count))
    }

    async fn run_crashes(&mut self, plan_crashes: &Mutex<VecDeque<CrashPlan>>) -> Result<CrashTotals> {
        let mut sum = CrashTotals::default();
        loop {
            let next = plan_crashes.lock().ok().and_then(|mut plan_crashes| plan_crashes.pop_front());
            let Some(crash) = next else { return Ok(sum) };
            self.crash(&crash, &mut sum).await.with_context(|| format!("at {crash:?}"))?;
        }
    }

    async fn crash(&mut self, crash: &CrashPlan, sum: &mut CrashTotals) -> Result<()> {
        let mut buyer = self.buyer(crash.end).await?;
        let (name, logs) = (self.name(), &self.setting.logs);
        let tracer = Tracer::kill_at(self.replica.process()?, &crash.at, &name, logs).await?;
        // The error does not matter: the customer retries.
        let _ = buyer.try_once(&self.clients).await;
        let was_killed = self.replica.was_killed_within(KILL_TIMEOUT).await;
        tracer.detach().await?;
        if was_killed {
            sum.crashed[buyer.responded()] += 1;
            self.replica.restart()?;
        } else {
            sum.not_reached += 1;
        }
        let began = Instant::now();
        if crash.waits_for_recovery {
            let state = self.wait_until_settled(&buyer, began).await?;
            sum.count_errors(crash, &buyer, state);
        }
        match buyer.resume(&self.clients).await {
            Ok(is_same) => sum.lost += usize::from(!is_same),
            Err(status) => {
                sum.rejected += 1;
                sum.errors.push(format!("{crash:?}: {status}"));
            }
        }
        sum.longest = sum.longest.max(began.elapsed());
        sum.calls += buyer.calls;
        let state = buyer.read_state(&self.clients).await?;
        sum.wrong_order_count += usize::from(state.orders != 1);
        sum.count_errors(crash, &buyer, state);
        Ok(())
    }

    /// Waits without any call until the service has resumed the work that was
    /// left.
    async fn wait_until_settled(&self, buyer: &Buyer, began: Instant) -> Result<CustomerState> {
        loop {
            let state = buyer.read_state(&self.clients).await?;
            if state.is_settled() || began.elapsed() > SETTLE_TIMEOUT {
                return Ok(state);
            }
            // What happens by itself is only state by looking.
            sleep(POLL_INTERVAL).await;
        }
    }
}

impl CrashTotals {
    /// Counts the errors in the shop's state after a crash.
    fn count_errors(&mut self, crash: &CrashPlan, buyer: &Buyer, state: CustomerState) {
        let wrong = if state.is_settled() {
            [
                false,
                !buyer.matches_responses(state),
                !state.has_correct_charge(),
                !state.has_correct_reservation(),
            ]
        } else {
            [true, false, false, false]
        };
        let counts = [
            &mut self.unsettled,
            &mut self.lost,
            &mut self.unmatched_charges,
            &mut self.unmatched_reservations,
        ];
        for (count, wrong) in counts.into_iter().zip(wrong) {
            *count += usize::from(wrong);
        }
        if wrong.contains(&true) {
            self.errors.push(format!("{crash:?}, {} calls answered: {state:?}", buyer.responded()));
        }
    }

    fn add(mut self, other: Self) -> Self {
        for (own, other) in self.crashed.iter_mut().zip(other.crashed) {
            *own += other;
        }
        self.not_reached += other.not_reached;
        self.calls += other.calls;
        self.lost += other.lost;
        self.wrong_order_count += other.wrong_order_count;
        self.unmatched_charges += other.unmatched_charges;
        self.unmatched_reservations += other.unmatched_reservations;
        self.unsettled += other.unsettled;
        self.rejected += other.rejected;
        self.longest = self.longest.max(other.longest);
        self.errors.extend(other.errors);
        self
    }
}

fn evaluate(sum: CrashTotals, audit: &Audit, point_count: usize, min_points: usize) -> ScenarioOutcome {
    let crashed: usize = sum.crashed.iter().sum();
    let [create, pay, end, after] = sum.crashed;
    let mut outcome = ScenarioOutcome {
        fault: format!(
            "order-service killed at {crashed} of the {point_count} writes of two checkouts ({create} creating, {pay} \
             paying, {end} shipping or cancelling, {after} after), {} not reached",
            sum.not_reached
        ),
        calls: sum.calls,
        failed_idempotent: sum.rejected,
        attempts_per_call: 1.0,
        failures: sum.errors.into_iter().take(8).collect(),
        ..ScenarioOutcome::default()
    };
    let enough = crashed >= min_points;
    outcome.figure("crash points", crashed.to_string(), format!("≥ {min_points}"), enough, "crash/tracer.rs");
    outcome.at_most(
        "responses that did not hold",
        sum.lost,
        0,
        "order-service: durable state before a response",
    );
    outcome.at_most("keys without just one order", sum.wrong_order_count, 0, "service-kit/idempotency.rs");
    outcome.at_most("charges without order or refund", sum.unmatched_charges, 0, "order-service/saga.rs");
    outcome.at_most(
        "reservations that do not match their orders",
        sum.unmatched_reservations,
        0,
        "order-service/saga.rs",
    );
    outcome.at_most("orders left in progress", sum.unsettled, 0, "order-service/recovery.rs");
    let read_state = "order-service: the lease, and the look-up of due work";
    outcome.within("settled after the restart", Some(sum.longest), SETTLE_TIMEOUT, read_state);
    outcome.at_most("rejected calls", outcome.failed_idempotent, 0, "order-service: the response");
    outcome.recovered(Some(sum.longest));
    audit.evaluate(&mut outcome);
    let reserved = audit.stock.iter().map(|(stock, _)| stock.reserved).sum::<i64>();
    let what = "pieces still reserved";
    outcome.at_most(what, usize::try_from(reserved).unwrap_or(usize::MAX), 0, "order-service/stock.rs");
    outcome
}

/// The mechanism that is guarded.
pub(super) const MECHANISM: &str = RECOVERY;
