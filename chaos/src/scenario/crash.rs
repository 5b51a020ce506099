//! R22: order-service is killed at one write after the other of a checkout,
//! and the checkout still happens once, whole or not at all.
//!
//! Each crash is a real SIGKILL, which strace sends at the n-th time that a
//! thread of the process makes a system call, before the call has any effect.
//! So the points are all states in which a crash can leave what is durable and
//! what others were told: after the writes before this one, and none of it.
//!
//! The calls are those by which something leaves the process: `pwrite64` (and
//! its vectors) is how SQLite writes log and pages, `fdatasync` and `fsync` what
//! makes them durable, `sendto`, `sendmsg` and `writev` how PostgreSQL, other
//! services and callers are told. `write` is not among them: it wakes threads
//! and writes the log, and no peer and no file of a database is written by it.
//! Each is counted by itself, because strace can count no other way, and in
//! each thread, which is why the process runs its tasks in one: what the
//! database and what the network is sent then has one order. One run of each
//! checkout without a crash counts them first: its points are those that are
//! struck, all or so many evenly spread.
//!
//! What a replica was working on is carried on when its lease has run out, after
//! ten seconds. So that a point does not cost as much, each of several replicas
//! has a database of its own, and they are killed independently: what one has
//! left is carried on by the next process on the same database, and nobody else.
//! At every other point the customer stays away until all is at rest, so that
//! only [`RECOVERY`] can have brought it there; at the others they repeat their
//! call at once, as a client does.

use std::{collections::VecDeque, sync::Mutex, time::Duration};

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use tokio::time::{Instant, sleep};
use tonic::Response;

use crate::{
    testbed::{
        Replica, ScenarioSetting,
        shop::{Audit, Clients, Plan, RECOVERY, Service, Shop, retry_until_definite},
    },
    verdict::ScenarioOutcome,
};

mod buyer;
mod tracer;

use buyer::{Buyer, CALLS, CustomerState, End};
use tracer::{Point, Tracer};

/// After how long after the restart nothing may be under way any more.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the writes that follow the last answer may take.
const FALLS: Duration = Duration::from_secs(2);
/// How often it is looked whether all is at rest.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A crash to come.
#[derive(Debug)]
struct Strike {
    end: End,
    at: Point,
    /// Whether the customer comes back only when all is at rest.
    alone: bool,
}

/// A replica on a database of its own, and its customers.
struct Lane<'a> {
    replica: &'a mut Replica,
    clients: Clients,
    customers: Vec<String>,
    setting: &'a ScenarioSetting,
}

/// What the crashes came to.
#[derive(Debug, Default)]
struct Sum {
    /// In which call: those before it were answered.
    struck: [usize; CALLS + 1],
    unreached: usize,
    calls: usize,
    lost: usize,
    not_one: usize,
    unpaired: usize,
    astray: usize,
    stuck: usize,
    refused: usize,
    longest: Duration,
    notes: Vec<String>,
}

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let (lanes, most, least) = setting.sized((14, 7, 10), (20, 60, 100), (24, usize::MAX, 100));
    let plan = Service::ALL.into_iter().fold(Plan::new(&setting), |plan, service| plan.replicas(service, 1));
    let plan = plan.replicas(Service::Order, lanes).with_own_databases(Service::Order);
    let plan = plan.env(Service::Order, "TOKIO_WORKER_THREADS", "1");
    let mut shop = Shop::start(plan).await?;
    shop.add_product("tea", 499, 1_000_000).await?;
    let clients = shop.indices_of(Service::Order).into_iter().map(|n| shop.clients_of(&shop.replicas[n].1));
    let clients: Vec<_> = clients.collect::<Result<_>>()?;
    let replicas = shop.replicas.iter_mut().filter(|(service, _)| *service == Service::Order);
    let mut lanes: Vec<_> = replicas
        .zip(&clients)
        .map(|((_, replica), clients)| Lane {
            replica,
            clients: clients.clone(),
            customers: Vec::new(),
            setting: &setting,
        })
        .collect();
    // Connections are made once, and not counted.
    try_join_all(lanes.iter_mut().map(|lane| lane.whole(End::Shipped))).await?;
    let first = lanes.first_mut().context("no replica")?;
    let (strikes, found) = first.strikes(most).await?;
    let strikes = Mutex::new(strikes);
    let sums = try_join_all(lanes.iter_mut().map(|lane| lane.strike_all(&strikes))).await?;
    let sum = sums.into_iter().reduce(Sum::add).unwrap_or_default();
    let customers = lanes.into_iter().map(|lane| lane.customers);
    let whose: Vec<_> = clients.iter().cloned().zip(customers).collect();
    let audit = shop.settled_audit_of(&whose, SETTLE_TIMEOUT).await?;
    Ok(evaluate(sum, &audit, found, least))
}

impl Lane<'_> {
    /// Another customer with two pieces in their cart.
    async fn buyer(&mut self, end: End) -> Result<Buyer> {
        let customer = format!("{}-customer-{}", self.name(), self.customers.len());
        // Twice as many do as well.
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

    /// A checkout without a crash.
    async fn whole(&mut self, end: End) -> Result<()> {
        let mut buyer = self.buyer(end).await?;
        buyer.come_back(&self.clients).await.context("a checkout without a crash failed").map(drop)
    }

    /// Counts the points of both checkouts; up to `most` of each, evenly
    /// spread, and how many there are.
    async fn strikes(&mut self, most: usize) -> Result<(VecDeque<Strike>, usize)> {
        let (mut strikes, mut found) = (VecDeque::new(), 0);
        for end in [End::Shipped, End::Cancelled] {
            let mut buyer = self.buyer(end).await?;
            let tracer = Tracer::note(self.replica.process()?, &self.name(), &self.setting.logs).await?;
            buyer.come_back(&self.clients).await.context("a traced checkout failed")?;
            let points = tracer.let_go().await?;
            found += points.len();
            let chosen = most.min(points.len());
            strikes.extend((0..chosen).map(|n| {
                let at = points[n * points.len() / chosen].clone();
                Strike { end, at, alone: n % 2 == 1 }
            }));
        }
        Ok((strikes, found))
    }

    async fn strike_all(&mut self, strikes: &Mutex<VecDeque<Strike>>) -> Result<Sum> {
        let mut sum = Sum::default();
        loop {
            let next = strikes.lock().ok().and_then(|mut strikes| strikes.pop_front());
            let Some(strike) = next else { return Ok(sum) };
            self.strike(&strike, &mut sum).await.with_context(|| format!("at {strike:?}"))?;
        }
    }

    async fn strike(&mut self, strike: &Strike, sum: &mut Sum) -> Result<()> {
        let mut buyer = self.buyer(strike.end).await?;
        let (name, logs) = (self.name(), &self.setting.logs);
        let tracer = Tracer::kill(self.replica.process()?, &strike.at, &name, logs).await?;
        // Why there is no answer does not matter: the customer comes back.
        let _ = buyer.try_once(&self.clients).await;
        let fell = self.replica.was_killed_within(FALLS).await;
        tracer.let_go().await?;
        if fell {
            sum.struck[buyer.answered()] += 1;
            self.replica.restart()?;
        } else {
            sum.unreached += 1;
        }
        let began = Instant::now();
        if strike.alone {
            let state = self.wait_for_rest(&buyer, began).await?;
            sum.weigh(strike, &buyer, state);
        }
        match buyer.come_back(&self.clients).await {
            Ok(same) => sum.lost += usize::from(!same),
            Err(status) => {
                sum.refused += 1;
                sum.notes.push(format!("{strike:?}: {status}"));
            }
        }
        sum.longest = sum.longest.max(began.elapsed());
        sum.calls += buyer.calls;
        let state = buyer.look(&self.clients).await?;
        sum.not_one += usize::from(state.orders != 1);
        sum.weigh(strike, &buyer, state);
        Ok(())
    }

    /// Nobody asks for anything: what was left is carried on all the same.
    async fn wait_for_rest(&self, buyer: &Buyer, began: Instant) -> Result<CustomerState> {
        loop {
            let state = buyer.look(&self.clients).await?;
            if state.rests() || began.elapsed() > SETTLE_TIMEOUT {
                return Ok(state);
            }
            // What happens by itself is only state by looking.
            sleep(POLL_INTERVAL).await;
        }
    }
}

impl Sum {
    /// Counts what is wrong with what the shop has after a crash.
    fn weigh(&mut self, strike: &Strike, buyer: &Buyer, state: CustomerState) {
        let wrong = if state.rests() {
            [false, !buyer.keeps(state), !state.is_paid_right(), !state.has_goods_right()]
        } else {
            [true, false, false, false]
        };
        let counts = [&mut self.stuck, &mut self.lost, &mut self.unpaired, &mut self.astray];
        for (count, wrong) in counts.into_iter().zip(wrong) {
            *count += usize::from(wrong);
        }
        if wrong.contains(&true) {
            self.notes.push(format!("{strike:?}, {} calls answered: {state:?}", buyer.answered()));
        }
    }

    fn add(mut self, other: Self) -> Self {
        for (mine, others) in self.struck.iter_mut().zip(other.struck) {
            *mine += others;
        }
        self.unreached += other.unreached;
        self.calls += other.calls;
        self.lost += other.lost;
        self.not_one += other.not_one;
        self.unpaired += other.unpaired;
        self.astray += other.astray;
        self.stuck += other.stuck;
        self.refused += other.refused;
        self.longest = self.longest.max(other.longest);
        self.notes.extend(other.notes);
        self
    }
}

fn evaluate(sum: Sum, audit: &Audit, found: usize, least: usize) -> ScenarioOutcome {
    let struck: usize = sum.struck.iter().sum();
    let [create, pay, end, after] = sum.struck;
    let mut outcome = ScenarioOutcome {
        fault: format!(
            "order-service killed at {struck} of the {found} writes of two checkouts ({create} creating, {pay} \
             paying, {end} shipping or cancelling, {after} after), {} not reached",
            sum.unreached
        ),
        calls: sum.calls,
        failed_idempotent: sum.refused,
        attempts_per_call: 1.0,
        failures: sum.notes.into_iter().take(8).collect(),
        ..ScenarioOutcome::default()
    };
    let enough = struck >= least;
    outcome.figure("crash points", struck.to_string(), format!("≥ {least}"), enough, "crash/tracer.rs");
    outcome.at_most(
        "answers that did not hold",
        sum.lost,
        0,
        "order-service: what is durable when it answers?",
    );
    outcome.at_most("keys without just one order", sum.not_one, 0, "service-kit/idempotency.rs");
    outcome.at_most("charges without order or refund", sum.unpaired, 0, "order-service/saga.rs");
    outcome.at_most("reservations that their orders do not go with", sum.astray, 0, "order-service/saga.rs");
    outcome.at_most("orders left under way", sum.stuck, 0, "order-service/recovery.rs");
    let look = "order-service: the lease, and who looks for what is due";
    outcome.within("settled after the restart", Some(sum.longest), SETTLE_TIMEOUT, look);
    outcome.at_most("refused calls", outcome.failed_idempotent, 0, "order-service: what was answered?");
    outcome.recovered(Some(sum.longest));
    audit.evaluate(&mut outcome);
    let reserved = audit.stock.iter().map(|(stock, _)| stock.reserved).sum::<i64>();
    let what = "pieces still set aside";
    outcome.at_most(what, usize::try_from(reserved).unwrap_or(usize::MAX), 0, "order-service/stock.rs");
    outcome
}

/// The mechanism that is guarded.
pub(super) const OFF: &str = RECOVERY;
