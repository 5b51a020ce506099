//! R21: more buyers than pieces, each of two products in opposite orders, while
//! a replica is killed in every round.
//!
//! # The check that the responses are serializable
//!
//! Both products are only sold together, so their stock is one number. A round
//! has three acts, each started when all calls of the one before have ended:
//!
//! 1. All buy. Nothing is returned, so the number only falls: it reaches zero
//!    after as many buyers as there were pieces, and rejections come after that.
//!    Such an order of the responses exists if and only if no more have bought
//!    than there were pieces, and, if there was a rejection, exactly as many, the
//!    last of whom started before the first rejection ended. The check is exact:
//!    place each purchase at its start, and each rejection at its end.
//! 2. Some buyers cancel, while all rejected ones buy again. At no time may more
//!    have bought than had started to cancel.
//! 3. All that were rejected again buy the pieces that the second act has left.
//!    The check is that of the first act; and as there are more buyers than
//!    pieces, all is sold in the end.

use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::{
    StreamExt, TryStreamExt,
    future::{join, join_all},
    stream,
};
use mesh_proto::shop::{
    order::v1::{CancelOrderRequest, OrderState},
    product::v1::{GetStockRequest, SetStockRequest, Stock},
};
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::{
    setting::ScenarioSetting,
    testbed::shop::{Audit, Clients, Plan, Service, Shop, retry_until_definite},
    verdict::ScenarioOutcome,
};

/// The mechanism that is guarded.
pub(super) const ONE_STEP: &str = "looking for pieces and taking them in one step";
/// The services whose replicas are killed.
const VICTIMS: [Service; 2] = [Service::Product, Service::Order];
/// The random time of a kill in its round, and the random downtime, in
/// milliseconds.
const KILL_DELAY_MS: std::ops::Range<u64> = 50..500;
const DOWNTIME_MS: std::ops::Range<u64> = 20..400;
/// The number of carts that are filled concurrently.
const CONCURRENCY: usize = 16;
/// The share of buyers that cancel: one in this many.
const CANCEL_ONE_IN: usize = 5;
/// The limit on a round: longer than the lease of a killed replica's orders.
const MAX_ROUND: Duration = Duration::from_secs(60);
/// The limit on the time until no order is in progress.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);

/// One round: its products and their buyers.
struct Round {
    skus: [String; 2],
    buyers: Vec<String>,
    pieces: usize,
}

/// One purchase, its time and its result.
struct PurchaseAttempt {
    buyer: String,
    began: Instant,
    ended: Instant,
    /// The id of the order; empty if pieces were taken without an order.
    order_id: Option<String>,
    error: Option<Status>,
}

/// The result of a round.
#[derive(Default)]
struct RoundResult {
    calls: usize,
    rejected: usize,
    /// The number of responses that are not serializable.
    not_serializable: usize,
    failures: Vec<String>,
    took: Duration,
}

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let (buyers, pieces, rounds) = setting.sized((100, 20, 1), (500, 100, 5), (500, 100, 20));
    let mut shop = Shop::start(Plan::new(&setting)).await?;
    let rounds: Vec<_> = (0..rounds).map(|n| Round::new(n, buyers, pieces)).collect();
    let clients = shop.clients()?;
    for round in &rounds {
        for sku in &round.skus {
            shop.add_product(sku, 499, i64::try_from(pieces)?).await?;
        }
        round.fill(&clients).await.context("could not fill the carts")?;
    }
    let one_step = !setting.is_disabled(ONE_STEP);
    let mut results = Vec::new();
    for round in &rounds {
        let victims: Vec<_> = VICTIMS.iter().flat_map(|service| shop.indices_of(*service)).collect();
        let victim = *fastrand::choice(&victims).context("no replica to kill")?;
        let (round_result, restarted) =
            join(round.run_acts(&clients, one_step), kill_and_restart(&mut shop, victim)).await;
        restarted?;
        shop.all_passing().await?;
        results.push(round_result);
    }
    let customers = rounds.iter().flat_map(|round| round.buyers.clone()).collect::<Vec<_>>();
    let audit = shop.settled_audit(&customers, SETTLE_TIMEOUT).await?;
    Ok(evaluate(&results, &audit, (buyers, pieces)))
}

async fn kill_and_restart(shop: &mut Shop, victim: usize) -> Result<()> {
    sleep(Duration::from_millis(fastrand::u64(KILL_DELAY_MS))).await;
    shop.kill(victim).await?;
    sleep(Duration::from_millis(fastrand::u64(DOWNTIME_MS))).await;
    shop.restart(victim)
}

impl Round {
    fn new(n: usize, buyers: usize, pieces: usize) -> Self {
        let skus = ["mug", "tea"].map(|what| format!("{what}-{n}"));
        let buyers = (0..buyers).map(|buyer| format!("buyer-{n}-{buyer}")).collect();
        Self { skus, buyers, pieces }
    }

    /// Adds one piece of each product to each cart, in alternating order.
    async fn fill(&self, clients: &Clients) -> Result<(), Status> {
        let filling = stream::iter(self.buyers.iter().enumerate()).map(Ok);
        let filling = filling.try_for_each_concurrent(CONCURRENCY, |(n, buyer)| async move {
            let [first, second] = &self.skus;
            let skus = if n % 2 == 0 { [first, second] } else { [second, first] };
            for sku in skus {
                clients.fill(buyer, sku, 1).await?;
            }
            Ok(())
        });
        filling.await
    }

    async fn run_acts(&self, clients: &Clients, one_step: bool) -> RoundResult {
        let began = Instant::now();
        let mut result = RoundResult::default();
        let first = self.all_buy(clients, self.buyers.clone(), one_step).await;
        result.not_serializable += not_serializable(&first, self.pieces);
        let orders = first.iter().filter_map(|attempt| attempt.order_id.clone()).filter(|id| !id.is_empty());
        let cancelled = join_all(orders.step_by(CANCEL_ONE_IN).map(|id| cancel(clients, id)));
        let again = self.all_buy(clients, rejected(&first), one_step);
        let (cancelled, second) = join(cancelled, again).await;
        let cancelled_at: Vec<_> =
            cancelled.iter().filter(|(_, error)| error.is_none()).map(|(at, _)| *at).collect();
        result.not_serializable += bought_too_early(&second, &cancelled_at);
        let left = cancelled_at.len().saturating_sub(count_bought(&second));
        let third = self.all_buy(clients, rejected(&second), one_step).await;
        result.not_serializable += not_serializable(&third, left);
        for attempts in [&first, &second, &third] {
            result.add(attempts);
        }
        result.calls += cancelled.len();
        result.failures.extend(cancelled.into_iter().filter_map(|(_, error)| error));
        result.took = began.elapsed();
        result
    }

    async fn all_buy(&self, clients: &Clients, buyers: Vec<String>, one_step: bool) -> Vec<PurchaseAttempt> {
        join_all(buyers.into_iter().map(|buyer| async move {
            let began = Instant::now();
            let response =
                if one_step { order(clients, &buyer).await } else { self.look_and_take(clients).await };
            let (order_id, error) = match response {
                Ok(order_id) => (order_id, None),
                Err(status) => (None, Some(status)),
            };
            PurchaseAttempt { buyer, began, ended: Instant::now(), order_id, error }
        }))
        .await
    }

    /// Buys as a shop without the mechanism would: reads the stock, and then
    /// sets it.
    async fn look_and_take(&self, clients: &Clients) -> Result<Option<String>, Status> {
        for product_id in &self.skus {
            let request = GetStockRequest { product_id: product_id.clone() };
            let Stock { available, .. } = retry_until_definite(|| {
                let (mut products, request) = (clients.products.clone(), request.clone());
                async move { products.get_stock(request).await }
            })
            .await
            .response?;
            if available == 0 {
                return Ok(None);
            }
            let (product_id, available) = (product_id.clone(), available - 1);
            let request = SetStockRequest { product_id, available, etag: String::new() };
            retry_until_definite(|| {
                let (mut products, request) = (clients.products.clone(), request.clone());
                async move { products.set_stock(request).await }
            })
            .await
            .response?;
        }
        Ok(Some(String::new()))
    }
}

/// Orders a cart; `None` when there are too few pieces.
async fn order(clients: &Clients, buyer: &str) -> Result<Option<String>, Status> {
    match clients.order(buyer, &Uuid::now_v7().to_string()).await.response {
        Ok(order) => Ok(Some(order.order_id)),
        Err(status) if is_sold_out(&status) => Ok(None),
        Err(status) => Err(status),
    }
}

fn is_sold_out(status: &Status) -> bool {
    let reason = status.get_details_error_info().map(|info| info.reason);
    status.code() == Code::FailedPrecondition && reason.as_deref() == Some("OUT_OF_STOCK")
}

/// Cancels an order; returns the start time, and the error if it was not
/// cancelled.
async fn cancel(clients: &Clients, order_id: String) -> (Instant, Option<String>) {
    let began = Instant::now();
    let request = CancelOrderRequest { order_id };
    let call = retry_until_definite(|| {
        let (mut orders, request) = (clients.orders.clone(), request.clone());
        async move { orders.cancel_order(request).await }
    });
    let error = match call.await.response {
        Ok(order) if order.state() == OrderState::Cancelled => None,
        Ok(order) => Some(format!("CancelOrder: the order is {}", order.state().as_str_name())),
        Err(status) => Some(format!("CancelOrder: {status}")),
    };
    (began, error)
}

fn count_bought(attempts: &[PurchaseAttempt]) -> usize {
    attempts.iter().filter(|attempt| attempt.order_id.is_some()).count()
}

fn rejected(attempts: &[PurchaseAttempt]) -> Vec<String> {
    let rejected = attempts.iter().filter(|attempt| attempt.order_id.is_none() && attempt.error.is_none());
    rejected.map(|attempt| attempt.buyer.clone()).collect()
}

/// The number of responses that are not serializable, for a stock with so many
/// pieces and no returns.
fn not_serializable(attempts: &[PurchaseAttempt], pieces: usize) -> usize {
    let bought = count_bought(attempts);
    let last =
        attempts.iter().filter(|attempt| attempt.order_id.is_some()).map(|attempt| attempt.began).max();
    let rejected = attempts.iter().filter(|attempt| attempt.order_id.is_none() && attempt.error.is_none());
    let early = rejected.filter(|attempt| bought < pieces || last.is_some_and(|last| attempt.ended < last));
    bought.saturating_sub(pieces) + early.count()
}

/// The number of purchases before as many cancellations had started.
fn bought_too_early(attempts: &[PurchaseAttempt], cancelled_at: &[Instant]) -> usize {
    let mut bought: Vec<_> =
        attempts.iter().filter(|attempt| attempt.order_id.is_some()).map(|attempt| attempt.ended).collect();
    bought.sort();
    let started = |at: Instant| cancelled_at.iter().filter(|began| **began <= at).count();
    bought.into_iter().enumerate().filter(|(before, at)| started(*at) <= *before).count()
}

impl RoundResult {
    fn add(&mut self, attempts: &[PurchaseAttempt]) {
        self.calls += attempts.len();
        self.rejected += rejected(attempts).len();
        let failures = attempts.iter().filter_map(|attempt| attempt.error.as_ref());
        self.failures.extend(failures.map(|status| format!("CreateOrder: {status}")));
    }
}

fn evaluate(results: &[RoundResult], audit: &Audit, (buyers, pieces): (usize, usize)) -> ScenarioOutcome {
    let rounds = results.len();
    let failures: Vec<_> = results.iter().flat_map(|result| &result.failures).collect();
    let rejected: usize = results.iter().map(|result| result.rejected).sum();
    let mut outcome = ScenarioOutcome {
        fault: format!(
            "{rounds} rounds of {buyers} buyers for {pieces} pieces, rejected {rejected} times, a replica \
             killed in each"
        ),
        calls: results.iter().map(|result| result.calls).sum(),
        failed_idempotent: failures.len(),
        attempts_per_call: 1.0,
        failures: failures.into_iter().take(8).cloned().collect(),
        ..ScenarioOutcome::default()
    };
    let astray = audit.stock.iter().filter(|(now, first)| now.sold != *first || now.available != 0);
    outcome.at_most(
        "products of which not exactly all was sold",
        astray.count(),
        0,
        "product-service/store/reservations.rs",
    );
    let (live, promised) =
        (audit.orders.iter().filter(|order| order.state() != OrderState::Cancelled).count(), rounds * pieces);
    let look = "order-service/checkout.rs: the response to a buyer";
    outcome.figure("orders", live.to_string(), format!("= {promised}"), live == promised, look);
    outcome.at_most(
        "responses that are not serializable",
        results.iter().map(|result| result.not_serializable).sum(),
        0,
        "product-service/store/stock.rs: pieces are checked and taken in one statement",
    );
    outcome.at_most(
        "calls without a definite response within a minute",
        outcome.failed_idempotent,
        0,
        "order-service/checkout.rs",
    );
    let longest = results.iter().map(|result| result.took).max();
    outcome.within("the longest round", longest, MAX_ROUND, "product-service/store.rs: the order of locks");
    audit.evaluate(&mut outcome);
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(began: u64, ended: u64, has_bought: bool) -> PurchaseAttempt {
        let at = |later| *START + Duration::from_secs(later);
        PurchaseAttempt {
            buyer: String::new(),
            began: at(began),
            ended: at(ended),
            order_id: has_bought.then(String::new),
            error: None,
        }
    }

    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);

    #[test]
    fn a_rejection_while_pieces_are_left_is_found() {
        assert_eq!(not_serializable(&[attempt(0, 9, true), attempt(1, 2, false)], 1), 0, "at the same time");
        assert_eq!(
            not_serializable(&[attempt(3, 9, true), attempt(1, 2, false)], 1),
            1,
            "rejected, and then there was one"
        );
        assert_eq!(not_serializable(&[attempt(0, 1, true), attempt(2, 3, false)], 2), 1, "one is left");
        assert_eq!(
            not_serializable(&[attempt(0, 1, true), attempt(0, 1, true), attempt(2, 3, false)], 1),
            1,
            "oversold"
        );
    }

    #[test]
    fn a_purchase_before_a_cancellation_is_found() {
        let cancelled_at = [*START + Duration::from_secs(2), *START + Duration::from_secs(5)];
        assert_eq!(bought_too_early(&[attempt(0, 3, true), attempt(0, 6, true)], &cancelled_at), 0);
        assert_eq!(bought_too_early(&[attempt(0, 1, true), attempt(0, 6, true)], &cancelled_at), 1);
        assert_eq!(bought_too_early(&[attempt(0, 3, true), attempt(0, 4, true)], &cancelled_at), 1);
        assert_eq!(bought_too_early(&[attempt(0, 1, false)], &[]), 0);
    }
}
