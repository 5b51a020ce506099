//! R25: payments of which nobody knows whether they were made, a carrier that
//! refuses, callers that hang up and ask again, and replicas that are killed.

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
    testbed::{
        ScenarioSetting,
        shop::{Audit, Clients, Plan, RetriedCall, Service, Shop},
    },
    verdict::ScenarioOutcome,
};

/// Who may be killed.
const VICTIMS: [Service; 2] = [Service::Order, Service::Payment];
/// How many customers are at it at once.
const AT_ONCE: usize = 20;
/// After how long nothing may be under way any more.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);
/// `lost` charges and says nothing until its caller gives up.
const PAYMENT_FAULTS: &str = "decline=0.1,unavailable=0.15,lost=0.2,slow=0.2:1s";
const CARRIER_FAULTS: &str = "refuse=0.25,unavailable=0.15,lost=0.15,slow=0.2:1s";
/// What a customer pays with; who is declined tries the next.
const METHODS: [&str; 4] = ["pm_card", "pm_other_card", "pm_bank", "pm_cash"];

/// What a customer wants, once there is an order.
#[derive(Clone, Copy)]
enum Wish {
    /// To have it.
    Have,
    /// To pay and then not to have it.
    Regret,
    /// To pay and, at the same time, not to have it.
    Waver,
    /// To have it shipped and, at the same time, not to have it.
    Stop,
    /// To pay, without waiting for what comes of it.
    Leave,
}

const WISHES: [Wish; 5] = [Wish::Have, Wish::Regret, Wish::Waver, Wish::Stop, Wish::Leave];

/// What one customer was told.
#[derive(Default)]
struct Dealt {
    /// The order, and where it stands for good.
    told: Vec<(String, OrderState)>,
    calls: usize,
    /// What leaves open what has happened, or is no answer to the question.
    unclear: Vec<String>,
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
        filling.buffer_unordered(AT_ONCE).try_collect().await.context("could not fill the carts")?;

    let clients = clients.with_short_timeouts();
    let dealing = stream::iter(customers.clone().into_iter().zip(WISHES.into_iter().cycle()));
    let dealing = dealing.map(|(customer, wish)| {
        let clients = clients.clone();
        async move { deal(&clients, &customer, wish).await }
    });
    let dealing = dealing.buffer_unordered(AT_ONCE).collect::<Vec<_>>();
    let (dealt, kills) = shop.while_killing(&VICTIMS, dealing).await?;
    let audit = shop.settled_audit(&customers, SETTLE_TIMEOUT).await?;
    Ok(evaluate(&dealt, &audit, kills))
}

async fn deal(clients: &Clients, customer: &str, wish: Wish) -> Dealt {
    let mut dealt = Dealt::default();
    let made = clients.order(customer, &Uuid::now_v7().to_string()).await;
    let Some(Order { order_id: id, .. }) = dealt.wait_for_line("CreateOrder", made, false) else {
        return dealt;
    };
    match wish {
        Wish::Leave => clients.pay_without_waiting(&id, METHODS[0]).await,
        Wish::Waver => {
            let (paid, cancelled) = join(clients.pay(&id, METHODS[0]), clients.cancel(&id)).await;
            dealt.wait_for_line("PayOrder", paid, true);
            dealt.note("CancelOrder", cancelled, false);
        }
        Wish::Regret if dealt.pay(clients, &id).await => {
            let cancelled = clients.cancel(&id).await;
            dealt.note("CancelOrder", cancelled, false);
        }
        Wish::Have if dealt.pay(clients, &id).await => {
            let shipped = clients.ship(&id).await;
            dealt.note("ShipOrder", shipped, true);
        }
        Wish::Stop if dealt.pay(clients, &id).await => {
            let (shipped, cancelled) = join(clients.ship(&id), clients.cancel(&id)).await;
            dealt.note("ShipOrder", shipped, true);
            dealt.note("CancelOrder", cancelled, true);
        }
        // Declined with everything: the order stays as it is.
        Wish::Regret | Wish::Have | Wish::Stop => {}
    }
    dealt
}

impl Dealt {
    /// Pays with whatever is not declined; whether that was done.
    async fn pay(&mut self, clients: &Clients, id: &str) -> bool {
        for method in METHODS {
            let paid = clients.pay(id, method).await;
            if self.wait_for_line("PayOrder", paid, true).is_some() {
                return true;
            }
        }
        false
    }

    /// What was answered; `refusable` says that a refusal is an answer too.
    fn wait_for_line(&mut self, what: &str, insisted: RetriedCall<Order>, refusable: bool) -> Option<Order> {
        self.calls += insisted.attempts;
        match insisted.response {
            Ok(order) => Some(order),
            Err(status) if refusable && status.code() == Code::FailedPrecondition => None,
            Err(status) => {
                self.unclear.push(format!("{what}: {status}"));
                None
            }
        }
    }

    /// As [`wait_for_line`](Self::wait_for_line), and remembers it as the last word.
    fn note(&mut self, what: &str, insisted: RetriedCall<Order>, refusable: bool) {
        let told = self.wait_for_line(what, insisted, refusable);
        self.told.extend(told.map(|order| (order.order_id.clone(), order.state())));
    }
}

fn evaluate(dealt: &[Dealt], audit: &Audit, kills: usize) -> ScenarioOutcome {
    let unclear: Vec<_> = dealt.iter().flat_map(|dealt| &dealt.unclear).collect();
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
        calls: dealt.iter().map(|dealt| dealt.calls).sum(),
        failed_idempotent: unclear.len(),
        attempts_per_call: 1.0,
        failures: unclear.into_iter().take(8).cloned().collect(),
        ..ScenarioOutcome::default()
    };
    outcome.at_most(
        "customers charged twice for their one order",
        charged_twice(audit),
        0,
        "order-service/payments.rs: the charge's key; payment-service: one charge for each key",
    );
    let kept = audit
        .standing_charges()
        .filter(|charge| matches!(states.get(charge.idempotency_key.as_str()), Some(OrderState::Cancelled)));
    outcome.at_most(
        "cancelled orders whose money was kept",
        kept.count(),
        0,
        "order-service/saga.rs: Step::Unwind",
    );
    let told = dealt.iter().flat_map(|dealt| &dealt.told);
    let otherwise = told.filter(|(id, told)| states.get(id.as_str()) != Some(told)).count();
    outcome.at_most("orders that are not as was said", otherwise, 0, "order-service/acts.rs");
    outcome.at_most(
        "calls without a clear answer within a minute",
        outcome.failed_idempotent,
        0,
        "order-service/acts.rs",
    );
    audit.evaluate(&mut outcome);
    let unhurt = [count(OrderState::Shipped), refunded, kills].into_iter().filter(|n| *n == 0).count();
    outcome.at_most(
        "of shipping, refunding and killing, what never happened",
        unhurt,
        0,
        "the faults' shares",
    );
    outcome
}

/// Customers from whom money was taken more than once, given back or not: each
/// has ordered once.
fn charged_twice(audit: &Audit) -> usize {
    let taken = |state| matches!(state, ChargeState::Succeeded | ChargeState::Refunded);
    let mut once = HashSet::new();
    let charges = audit.charges.iter().filter(|charge| taken(charge.state()));
    let twice: HashSet<_> =
        charges.map(|charge| &charge.customer_id).filter(|customer| !once.insert(*customer)).collect();
    twice.len()
}
