//! R21: more buyers than pieces, each of two products at once and in opposite
//! orders, while a replica is killed in every round.
//!
//! # Whether the answers could have been given one after the other
//!
//! Both products are only sold together, so their stock is one number. A round
//! has three acts, each begun when all of the one before was answered:
//!
//! 1. Everybody buys. Nothing is returned, so the number only falls: it falls to
//!    nothing by as many buyers as there were pieces, and who is refused is
//!    refused after that. Such an order of the answers exists if and only if no
//!    more have bought than there were pieces, and, where anybody was refused,
//!    as many, the last of whom began before the first refusal was answered. So
//!    this is exact: let each who has bought do so when they began, and each
//!    refusal be when it ended.
//! 2. Some who have bought cancel, while everybody who was refused buys again.
//!    At no time may more have bought than had begun to cancel.
//! 3. Everybody who was refused again buys, with what the second act has left
//!    over. As the first act; and as there are more buyers than pieces, all is
//!    sold in the end.

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
    testbed::{
        ScenarioSetting,
        shop::{Audit, Clients, Plan, Service, Shop, retry_until_definite},
    },
    verdict::ScenarioOutcome,
};

/// The mechanism that is guarded.
pub(super) const ONE_STEP: &str = "looking for pieces and taking them in one step";
/// Who may be killed.
const VICTIMS: [Service; 2] = [Service::Product, Service::Order];
/// When in a round that is, and how long it stays away, in milliseconds.
const STRIKE: std::ops::Range<u64> = 50..500;
const AWAY: std::ops::Range<u64> = 20..400;
/// How many carts are filled at once.
const AT_ONCE: usize = 16;
/// Of those who have bought, how many cancel: one of so many.
const CANCEL: usize = 5;
/// How long a round may take: longer than a killed replica's orders are held.
const ROUND: Duration = Duration::from_secs(60);
/// After how long nothing may be under way any more.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);

/// One round: its products, and who wants them.
struct Round {
    skus: [String; 2],
    buyers: Vec<String>,
    pieces: usize,
}

/// What one buyer was told, and when.
struct Asked {
    buyer: String,
    began: Instant,
    ended: Instant,
    /// The order that they have; empty for who takes without ordering.
    had: Option<String>,
    unclear: Option<Status>,
}

/// What a round came to.
#[derive(Default)]
struct RoundResult {
    calls: usize,
    refused: usize,
    /// Answers that no stock gives one after the other.
    torn: usize,
    unclear: Vec<String>,
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
    let mut result = Vec::new();
    for round in &rounds {
        let victims: Vec<_> = VICTIMS.iter().flat_map(|service| shop.indices_of(*service)).collect();
        let victim = *fastrand::choice(&victims).context("no replica to kill")?;
        let (told, struck) = join(round.play(&clients, one_step), strike(&mut shop, victim)).await;
        struck?;
        shop.all_passing().await?;
        result.push(told);
    }
    let customers = rounds.iter().flat_map(|round| round.buyers.clone()).collect::<Vec<_>>();
    let audit = shop.settled_audit(&customers, SETTLE_TIMEOUT).await?;
    Ok(evaluate(&result, &audit, (buyers, pieces)))
}

async fn strike(shop: &mut Shop, victim: usize) -> Result<()> {
    sleep(Duration::from_millis(fastrand::u64(STRIKE))).await;
    shop.kill(victim).await?;
    sleep(Duration::from_millis(fastrand::u64(AWAY))).await;
    shop.restart(victim)
}

impl Round {
    fn new(n: usize, buyers: usize, pieces: usize) -> Self {
        let skus = ["mug", "tea"].map(|what| format!("{what}-{n}"));
        let buyers = (0..buyers).map(|buyer| format!("buyer-{n}-{buyer}")).collect();
        Self { skus, buyers, pieces }
    }

    /// One piece of each product into each cart, in this order or the other.
    async fn fill(&self, clients: &Clients) -> Result<(), Status> {
        let filling = stream::iter(self.buyers.iter().enumerate()).map(Ok);
        let filling = filling.try_for_each_concurrent(AT_ONCE, |(n, buyer)| async move {
            let [first, second] = &self.skus;
            let skus = if n % 2 == 0 { [first, second] } else { [second, first] };
            for sku in skus {
                clients.fill(buyer, sku, 1).await?;
            }
            Ok(())
        });
        filling.await
    }

    async fn play(&self, clients: &Clients, one_step: bool) -> RoundResult {
        let began = Instant::now();
        let mut result = RoundResult::default();
        let first = self.all_buy(clients, self.buyers.clone(), one_step).await;
        result.torn += torn(&first, self.pieces);
        let orders = first.iter().filter_map(|asked| asked.had.clone()).filter(|id| !id.is_empty());
        let cancelled = join_all(orders.step_by(CANCEL).map(|id| cancel(clients, id)));
        let again = self.all_buy(clients, refused(&first), one_step);
        let (cancelled, second) = join(cancelled, again).await;
        let back: Vec<_> = cancelled.iter().filter(|(_, why)| why.is_none()).map(|(at, _)| *at).collect();
        result.torn += too_early(&second, &back);
        let left = back.len().saturating_sub(had(&second));
        let third = self.all_buy(clients, refused(&second), one_step).await;
        result.torn += torn(&third, left);
        for asked in [&first, &second, &third] {
            result.wait_for_line(asked);
        }
        result.calls += cancelled.len();
        result.unclear.extend(cancelled.into_iter().filter_map(|(_, why)| why));
        result.took = began.elapsed();
        result
    }

    async fn all_buy(&self, clients: &Clients, buyers: Vec<String>, one_step: bool) -> Vec<Asked> {
        join_all(buyers.into_iter().map(|buyer| async move {
            let began = Instant::now();
            let answer = if one_step { order(clients, &buyer).await } else { self.take(clients).await };
            let (had, unclear) = match answer {
                Ok(had) => (had, None),
                Err(status) => (None, Some(status)),
            };
            Asked { buyer, began, ended: Instant::now(), had, unclear }
        }))
        .await
    }

    /// What a shop without the mechanism does: it looks, and then it takes.
    async fn take(&self, clients: &Clients) -> Result<Option<String>, Status> {
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

/// Cancels an order: when that began, and what was told instead of that it is
/// cancelled.
async fn cancel(clients: &Clients, order_id: String) -> (Instant, Option<String>) {
    let began = Instant::now();
    let request = CancelOrderRequest { order_id };
    let insisted = retry_until_definite(|| {
        let (mut orders, request) = (clients.orders.clone(), request.clone());
        async move { orders.cancel_order(request).await }
    });
    let why = match insisted.await.response {
        Ok(order) if order.state() == OrderState::Cancelled => None,
        Ok(order) => Some(format!("CancelOrder: the order is {}", order.state().as_str_name())),
        Err(status) => Some(format!("CancelOrder: {status}")),
    };
    (began, why)
}

fn had(asked: &[Asked]) -> usize {
    asked.iter().filter(|asked| asked.had.is_some()).count()
}

fn refused(asked: &[Asked]) -> Vec<String> {
    let refused = asked.iter().filter(|asked| asked.had.is_none() && asked.unclear.is_none());
    refused.map(|asked| asked.buyer.clone()).collect()
}

/// Answers of a stock that had so many pieces, and got none back, that cannot
/// have been given one after the other.
fn torn(asked: &[Asked], pieces: usize) -> usize {
    let had = had(asked);
    let last = asked.iter().filter(|asked| asked.had.is_some()).map(|asked| asked.began).max();
    let refused = asked.iter().filter(|asked| asked.had.is_none() && asked.unclear.is_none());
    let early = refused.filter(|asked| had < pieces || last.is_some_and(|last| asked.ended < last));
    had.saturating_sub(pieces) + early.count()
}

/// Who had bought when fewer had begun to give back.
fn too_early(asked: &[Asked], back: &[Instant]) -> usize {
    let mut bought: Vec<_> =
        asked.iter().filter(|asked| asked.had.is_some()).map(|asked| asked.ended).collect();
    bought.sort();
    let begun = |at: Instant| back.iter().filter(|began| **began <= at).count();
    bought.into_iter().enumerate().filter(|(before, at)| begun(*at) <= *before).count()
}

impl RoundResult {
    fn wait_for_line(&mut self, asked: &[Asked]) {
        self.calls += asked.len();
        self.refused += refused(asked).len();
        let unclear = asked.iter().filter_map(|asked| asked.unclear.as_ref());
        self.unclear.extend(unclear.map(|status| format!("CreateOrder: {status}")));
    }
}

fn evaluate(result: &[RoundResult], audit: &Audit, (buyers, pieces): (usize, usize)) -> ScenarioOutcome {
    let rounds = result.len();
    let unclear: Vec<_> = result.iter().flat_map(|result| &result.unclear).collect();
    let refused: usize = result.iter().map(|result| result.refused).sum();
    let mut outcome = ScenarioOutcome {
        fault: format!(
            "{rounds} rounds of {buyers} buyers for {pieces} pieces, refused {refused} times, a replica \
             killed in each"
        ),
        calls: result.iter().map(|result| result.calls).sum(),
        failed_idempotent: unclear.len(),
        attempts_per_call: 1.0,
        failures: unclear.into_iter().take(8).cloned().collect(),
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
    let look = "order-service/checkout.rs: who was told that they have it?";
    outcome.figure("orders", live.to_string(), format!("= {promised}"), live == promised, look);
    outcome.at_most(
        "answers that no stock gives one after the other",
        result.iter().map(|result| result.torn).sum(),
        0,
        "product-service/store/stock.rs: pieces are looked for and taken in one statement",
    );
    outcome.at_most(
        "calls without a clear answer within a minute",
        outcome.failed_idempotent,
        0,
        "order-service/checkout.rs",
    );
    let longest = result.iter().map(|result| result.took).max();
    outcome.within("the longest round", longest, ROUND, "product-service/store.rs: the order of locks");
    audit.evaluate(&mut outcome);
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(began: u64, ended: u64, had: bool) -> Asked {
        let at = |later| *START + Duration::from_secs(later);
        let had = had.then(String::new);
        Asked { buyer: String::new(), began: at(began), ended: at(ended), had, unclear: None }
    }

    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);

    #[test]
    fn who_is_refused_while_there_is_some_is_found() {
        assert_eq!(torn(&[asked(0, 9, true), asked(1, 2, false)], 1), 0, "at the same time");
        assert_eq!(torn(&[asked(3, 9, true), asked(1, 2, false)], 1), 1, "refused, and then there was one");
        assert_eq!(torn(&[asked(0, 1, true), asked(2, 3, false)], 2), 1, "one is left");
        assert_eq!(torn(&[asked(0, 1, true), asked(0, 1, true), asked(2, 3, false)], 1), 1, "oversold");
    }

    #[test]
    fn who_has_what_nobody_has_given_back_is_found() {
        let back = [*START + Duration::from_secs(2), *START + Duration::from_secs(5)];
        assert_eq!(too_early(&[asked(0, 3, true), asked(0, 6, true)], &back), 0);
        assert_eq!(too_early(&[asked(0, 1, true), asked(0, 6, true)], &back), 1);
        assert_eq!(too_early(&[asked(0, 3, true), asked(0, 4, true)], &back), 1);
        assert_eq!(too_early(&[asked(0, 1, false)], &[]), 0);
    }
}
