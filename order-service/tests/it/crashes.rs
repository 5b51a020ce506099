//! Crashes at every point: what works on an order is dropped where it waits for
//! the n-th time, for each n there is, and another replica carries on.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

use mesh_proto::shop::{
    order::v1::{CreateOrderRequest, Order, OrderState},
    payment::v1::ChargeState,
    product::v1::ReservationState,
};
use order_service::{
    Error,
    acts::Act,
    carrier::Faults,
    checkout::{METHOD, Wanted, begin, finish},
    domain::{OrderId, PaymentMethod, RequestId},
    saga::Sagas,
};
use service_kit::{
    auth::Caller, idempotency::IdempotentRequest, on_both_databases, testing::TestDatabase, value::CustomerId,
};

use crate::played::{CARD, PlayedApp, item, seen, wanted};

/// More tries than there are points: the end of the enumeration must be reached.
const TRIES: usize = 2_000;
/// How often in a row nothing was cut off at a point when there is none: what is
/// answered before it is waited for has one point less.
const UNCUT: usize = 10;

/// The points at which work was cut off so far.
#[derive(Default)]
struct Points {
    met: usize,
    uncut: usize,
}

impl Points {
    /// After a try at the point `met`; whether all are met.
    fn count<T>(&mut self, done: &Option<T>) -> bool {
        match done {
            Some(_) => self.uncut += 1,
            None => *self = Self { met: self.met + 1, uncut: 0 },
        }
        self.uncut == UNCUT
    }
}

/// `work`, dropped where it waits for the n-th time; `None` when it was.
async fn cut<T>(mut work: Pin<Box<impl Future<Output = T>>>, mut n: usize) -> Option<T> {
    poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if n == 0 => Poll::Ready(None),
        Poll::Pending => {
            n -= 1;
            Poll::Pending
        }
    })
    .await
}

pub(crate) fn understood(request: &CreateOrderRequest) -> Wanted {
    let id = RequestId::parse(&request.request_id).unwrap();
    Wanted {
        customer: CustomerId::parse(&request.customer_id).unwrap(),
        request: id,
        seen: None,
        total: None,
        asked: IdempotentRequest::new(&Caller::Unrestricted, METHOD, id, request),
    }
}

async fn check_out(sagas: &Sagas, wanted: &Wanted) -> Result<Order, Error> {
    let begun = begin(sagas, wanted).await?;
    finish(sagas, wanted, begun).await
}

/// The id of an order that was made.
pub(crate) async fn made(app: &PlayedApp, sagas: &Sagas, customer: &str) -> OrderId {
    app.carts.put(customer, [item("tea", 499, 1)]);
    let order = check_out(sagas, &understood(&wanted(customer))).await.unwrap();
    OrderId::parse(&order.order_id).unwrap()
}

/// The id of an order that was recorded and left.
pub(crate) async fn left_pending(app: &PlayedApp, sagas: &Sagas) -> OrderId {
    app.carts.put("left", [item("tea", 499, 1)]);
    app.stock.reserving.set(crate::played::Mood::Hangs);
    let wanted = understood(&wanted("left"));
    let time = std::time::Duration::from_millis(500);
    let _ = tokio::time::timeout(time, check_out(sagas, &wanted)).await.unwrap_err();
    app.stock.reserving.set(crate::played::Mood::Works);
    let customer = CustomerId::parse("left").unwrap();
    sagas.store().list(&customer, None, 1).await.unwrap()[0].id()
}

async fn a_checkout_cut_off_anywhere_is_one_order(database: TestDatabase) {
    let mut app = PlayedApp::spawn(database, 0).await;
    let sagas = app.sagas(Faults::default()).await;
    let (mut cut_off, mut points) = (Vec::new(), Points::default());
    for n in 0..TRIES {
        let request = wanted(&format!("customer {n}"));
        app.carts.put(&request.customer_id, [item("tea", 499, 1)]);
        let done = cut(Box::pin(check_out(&sagas, &understood(&request))), points.met).await;
        cut_off.push(request);
        if points.count(&done) {
            break;
        }
    }
    assert!(points.met >= 5 && points.uncut == UNCUT, "{} points", points.met);
    app.expire_leases().await;
    app.add_replica().await;
    for request in &cut_off {
        let order = app.insist(|| app.create(0, request.clone())).await.unwrap();
        assert_eq!(order.state(), OrderState::Confirmed);
        assert_eq!(app.stock.of(&order.order_id), Some(ReservationState::Committed));
        assert_eq!(app.list(&request.customer_id, 0, "").await.0, [order]);
        assert!(app.carts.cart(&request.customer_id).items.is_empty());
    }
    assert_eq!(app.stock.taken(), i64::try_from(cut_off.len()).unwrap());
}

/// Cuts `act` off at every point, of one order after the other that `before`
/// has led to; returns their ids.
async fn cut_everywhere(app: &PlayedApp, sagas: &Sagas, before: &[Act], act: &Act) -> Vec<String> {
    let (mut ids, mut points) = (Vec::new(), Points::default());
    for n in 0..TRIES {
        let id = made(app, sagas, &format!("customer {n}")).await;
        for act in before {
            act.perform(sagas, seen(sagas, id).await).await.unwrap();
        }
        ids.push(id.to_string());
        let done = cut(Box::pin(act.perform(sagas, seen(sagas, id).await)), points.met).await;
        if points.count(&done) {
            break;
        }
    }
    assert!(points.met >= 2 && points.uncut == UNCUT, "{} points", points.met);
    ids
}

fn pay() -> Act {
    Act::Pay(PaymentMethod::parse(CARD).unwrap())
}

async fn a_payment_cut_off_anywhere_is_one_charge(database: TestDatabase) {
    let mut app = PlayedApp::spawn(database, 0).await;
    let sagas = app.sagas(Faults::default()).await;
    let ids = Box::pin(cut_everywhere(&app, &sagas, &[], &pay())).await;
    app.expire_leases().await;
    app.add_replica().await;
    for id in &ids {
        let order = app.insist(|| app.pay(0, id, CARD)).await.unwrap();
        assert_eq!(order.state(), OrderState::Paid);
        assert_eq!(app.payments.of(id), Some(ChargeState::Succeeded));
    }
}

async fn a_cancellation_cut_off_anywhere_refunds_and_returns(database: TestDatabase) {
    let mut app = PlayedApp::spawn(database, 0).await;
    let sagas = app.sagas(Faults::default()).await;
    let ids = Box::pin(cut_everywhere(&app, &sagas, &[pay()], &Act::Cancel)).await;
    app.expire_leases().await;
    app.add_replica().await;
    for id in &ids {
        let order = app.insist(|| app.cancel(0, id)).await.unwrap();
        assert_eq!(order.state(), OrderState::Cancelled);
        assert_eq!(app.payments.of(id), Some(ChargeState::Refunded));
        assert_eq!(app.stock.of(id), Some(ReservationState::Released));
    }
    assert_eq!((app.payments.standing(), app.stock.taken()), (0, 0));
}

async fn a_shipment_cut_off_anywhere_arrives(database: TestDatabase) {
    let mut app = PlayedApp::spawn(database, 0).await;
    let sagas = app.sagas(Faults::default()).await;
    let ids = Box::pin(cut_everywhere(&app, &sagas, &[pay()], &Act::Ship)).await;
    app.expire_leases().await;
    app.add_replica().await;
    for id in &ids {
        let order = app.insist(|| app.ship(0, id)).await.unwrap();
        assert_eq!(order.state(), OrderState::Shipped);
    }
    assert_eq!(app.payments.standing(), ids.len());
}

async fn a_refused_shipment_cut_off_anywhere_is_refunded(database: TestDatabase) {
    let mut app = PlayedApp::spawn(database, 0).await;
    let sagas = app.sagas(Faults { refuse: 1.0, ..Faults::default() }).await;
    let ids = Box::pin(cut_everywhere(&app, &sagas, &[pay()], &Act::Ship)).await;
    app.expire_leases().await;
    app.add_replica().await;
    for id in &ids {
        // Whose refusal was not written before the crash is shipped: the new
        // replica's carrier takes it.
        match app.insist(|| app.ship(0, id)).await {
            Ok(order) => {
                assert_eq!(order.state(), OrderState::Shipped);
                assert_eq!(app.payments.of(id), Some(ChargeState::Succeeded));
            }
            Err(_) => {
                app.becomes(id, OrderState::Cancelled).await;
                assert_eq!(app.payments.of(id), Some(ChargeState::Refunded));
                assert_eq!(app.stock.of(id), Some(ReservationState::Released));
            }
        }
    }
}

on_both_databases!(
    a_checkout_cut_off_anywhere_is_one_order,
    a_payment_cut_off_anywhere_is_one_charge,
    a_cancellation_cut_off_anywhere_refunds_and_returns,
    a_shipment_cut_off_anywhere_arrives,
    a_refused_shipment_cut_off_anywhere_is_refunded,
);
