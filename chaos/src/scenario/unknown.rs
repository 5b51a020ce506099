//! R25: payments with an unknown outcome, a carrier that rejects, callers that
//! time out and retry, and replicas that are killed.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, future::join, stream};
use mesh_proto::shop::{
    order::v1::{Order, OrderState},
    payment::v1::ChargeState,
};
use tonic::Code;
use uuid::Uuid;

use crate::{
    setting::ScenarioSetting,
    testbed::shop::{Audit, Clients, Plan, RetriedCall, Service, Shop},
    verdict::ScenarioOutcome,
};

/// The services whose replicas are killed.
const VICTIMS: [Service; 2] = [Service::Order, Service::Payment];
/// The number of concurrent customers.
const CONCURRENCY: usize = 20;
/// The limit on the time until no order is in progress.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The faults of payments; `lost` charges and does not respond.
const PAYMENT_FAULTS: &str = "decline=0.1,unavailable=0.15,lost=0.2,slow=0.2:1s";
const CARRIER_FAULTS: &str = "refuse=0.25,unavailable=0.15,lost=0.15,slow=0.2:1s";
/// The payment methods; a declined customer tries the next.
const PAYMENT_METHODS: [&str; 4] = ["pm_card", "pm_other_card", "pm_bank", "pm_cash"];

/// The actions of a customer after the order is created.
#[derive(Clone, Copy)]
enum CustomerPlan {
    /// Pays, and has it shipped.
    Ship,
    /// Pays, then cancels.
    CancelAfterPaying,
    /// Pays and cancels concurrently.
    CancelWhilePaying,
    /// Pays, then ships and cancels concurrently.
    CancelWhileShipping,
    /// Pays without waiting for the response.
    PayWithoutWaiting,
}

const CUSTOMER_PLANS: [CustomerPlan; 5] = [
    CustomerPlan::Ship,
    CustomerPlan::CancelAfterPaying,
    CustomerPlan::CancelWhilePaying,
    CustomerPlan::CancelWhileShipping,
    CustomerPlan::PayWithoutWaiting,
];

/// The responses to one customer.
#[derive(Default)]
struct CustomerResult {
    /// The order with its final state.
    final_states: Vec<(String, OrderState)>,
    calls: usize,
    /// Errors that leave the outcome unknown, or that were not expected.
    failures: Vec<String>,
}

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let customers = setting.sized(40, 300, 1_000);
    let plan = Plan::new(&setting)
        .replicas(Service::Order, setting.sized(2, 3, 3))
        .env(Service::Payment, "PAYMENT_FAULTS", PAYMENT_FAULTS)
        .env(Service::Order, "CARRIER_FAULTS", CARRIER_FAULTS);
    let mut shop = Shop::start(plan).await?;
    shop.add_product("tea", 499, 10_000_000).await?;
    let customers: Vec<_> = (0..customers).map(|n| format!("customer-{n}")).collect();
    let clients = shop.clients()?;
    let filling = stream::iter(customers.clone()).map(|customer| {
        let clients = clients.clone();
        async move { clients.fill(&customer, "tea", 2).await }
    });
    let _carts: Vec<_> =
        filling.buffer_unordered(CONCURRENCY).try_collect().await.context("could not fill the carts")?;

    let clients = clients.with_short_timeouts();
    let running = stream::iter(customers.clone().into_iter().zip(CUSTOMER_PLANS.into_iter().cycle()));
    let running = running.map(|(customer, plan_of_customer)| {
        let clients = clients.clone();
        async move { run_customer(&clients, &customer, plan_of_customer).await }
    });
    let running = running.buffer_unordered(CONCURRENCY).collect::<Vec<_>>();
    let (results, kills) = shop.while_killing(&VICTIMS, running).await?;
    let audit = shop.settled_audit(&customers, SETTLE_TIMEOUT).await?;
    Ok(evaluate(&results, &audit, kills))
}

async fn run_customer(clients: &Clients, customer: &str, plan_of_customer: CustomerPlan) -> CustomerResult {
    let mut results = CustomerResult::default();
    let created = clients.order(customer, &Uuid::now_v7().to_string()).await;
    let Some(Order { order_id: id, .. }) = results.record("CreateOrder", created, false) else {
        return results;
    };
    match plan_of_customer {
        CustomerPlan::PayWithoutWaiting => clients.pay_without_waiting(&id, PAYMENT_METHODS[0]).await,
        CustomerPlan::CancelWhilePaying => {
            let (paid, cancelled) = join(clients.pay(&id, PAYMENT_METHODS[0]), clients.cancel(&id)).await;
            results.record("PayOrder", paid, true);
            results.record_final("CancelOrder", cancelled, false);
        }
        CustomerPlan::CancelAfterPaying if results.pay(clients, &id).await => {
            let cancelled = clients.cancel(&id).await;
            results.record_final("CancelOrder", cancelled, false);
        }
        CustomerPlan::Ship if results.pay(clients, &id).await => {
            let shipped = clients.ship(&id).await;
            results.record_final("ShipOrder", shipped, true);
        }
        CustomerPlan::CancelWhileShipping if results.pay(clients, &id).await => {
            let (shipped, cancelled) = join(clients.ship(&id), clients.cancel(&id)).await;
            results.record_final("ShipOrder", shipped, true);
            results.record_final("CancelOrder", cancelled, true);
        }
        // All payment methods were declined: the order stays as it is.
        CustomerPlan::CancelAfterPaying | CustomerPlan::Ship | CustomerPlan::CancelWhileShipping => {}
    }
    results
}

impl CustomerResult {
    /// Pays with the first method that is not declined; returns false if all
    /// are.
    async fn pay(&mut self, clients: &Clients, id: &str) -> bool {
        for method in PAYMENT_METHODS {
            let paid = clients.pay(id, method).await;
            if self.record("PayOrder", paid, true).is_some() {
                return true;
            }
        }
        false
    }

    /// Records a response; with `may_be_rejected` a rejection is a valid one.
    fn record(&mut self, what: &str, call: RetriedCall<Order>, may_be_rejected: bool) -> Option<Order> {
        self.calls += call.attempts;
        match call.response {
            Ok(order) => Some(order),
            Err(status) if may_be_rejected && status.code() == Code::FailedPrecondition => None,
            Err(status) => {
                self.failures.push(format!("{what}: {status}"));
                None
            }
        }
    }

    /// Records a response that contains the final state.
    fn record_final(&mut self, what: &str, call: RetriedCall<Order>, may_be_rejected: bool) {
        let final_states = self.record(what, call, may_be_rejected);
        self.final_states.extend(final_states.map(|order| (order.order_id.clone(), order.state())));
    }
}

fn evaluate(results: &[CustomerResult], audit: &Audit, kills: usize) -> ScenarioOutcome {
    let failures: Vec<_> = results.iter().flat_map(|results| &results.failures).collect();
    let states: HashMap<_, _> =
        audit.orders.iter().map(|order| (order.order_id.as_str(), order.state())).collect();
    let count = |state| states.values().filter(|is| **is == state).count();
    let cancelled = count(OrderState::Cancelled);
    let refunded = usize::try_from(audit.balance.refunds).unwrap_or_default();
    let mut outcome = ScenarioOutcome {
        fault: format!(
            "{} orders ({} shipped, {cancelled} cancelled, {refunded} refunded) with {PAYMENT_FAULTS} and \
             {CARRIER_FAULTS}, {kills} replicas killed",
            states.len(),
            count(OrderState::Shipped),
        ),
        calls: results.iter().map(|results| results.calls).sum(),
        failed_idempotent: failures.len(),
        attempts_per_call: 1.0,
        failures: failures.into_iter().take(8).cloned().collect(),
        ..ScenarioOutcome::default()
    };
    outcome.at_most(
        "customers charged twice for their one order",
        charged_twice(audit),
        0,
        "order-service/payments.rs: the charge's key; payment-service: one charge for each key",
    );
    let kept_charges = audit
        .standing_charges()
        .filter(|charge| matches!(states.get(charge.idempotency_key.as_str()), Some(OrderState::Cancelled)));
    outcome.at_most(
        "cancelled orders whose money was kept",
        kept_charges.count(),
        0,
        "order-service/saga.rs: Step::Unwind",
    );
    let final_states = results.iter().flat_map(|results| &results.final_states);
    let different =
        final_states.filter(|(id, final_states)| states.get(id.as_str()) != Some(final_states)).count();
    outcome.at_most("orders that differ from their response", different, 0, "order-service/acts.rs");
    outcome.at_most(
        "calls without a definite response within a minute",
        outcome.failed_idempotent,
        0,
        "order-service/acts.rs",
    );
    audit.evaluate(&mut outcome);
    let never_happened =
        [count(OrderState::Shipped), refunded, kills].into_iter().filter(|n| *n == 0).count();
    outcome.at_most(
        "shipping, refunds or kills that never happened",
        never_happened,
        0,
        "the faults' shares",
    );
    outcome
}

/// The number of customers that were charged more than once, refunded or not:
/// each has ordered once.
fn charged_twice(audit: &Audit) -> usize {
    let taken = |state| matches!(state, ChargeState::Succeeded | ChargeState::Refunded);
    let mut once = HashSet::new();
    let charges = audit.charges.iter().filter(|charge| taken(charge.state()));
    let twice: HashSet<_> =
        charges.map(|charge| &charge.customer_id).filter(|customer| !once.insert(*customer)).collect();
    twice.len()
}
