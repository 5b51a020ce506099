//! Crashes at every await point: the work on an order is dropped at its n-th wait,
//! for each n, and another replica resumes it.

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
    carrier::Faults,
    checkout::{execute, prepare},
    commands::OrderCommand,
    domain::{CREATE_ORDER, OrderId, OrderRequest, PaymentMethod, RequestId},
    saga::Sagas,
};
use service_kit::{
    auth::Caller, idempotency::IdempotentRequest, on_both_databases, testing::TestDatabase, value::CustomerId,
};

use crate::fakes::{CARD, FakeApp, create_request, item, snapshot};

/// More attempts than points: the enumeration must reach its end.
const MAX_ATTEMPTS: usize = 2_000;
/// The number of consecutive attempts without an interruption that ends the
/// enumeration: a response that arrives before the wait has one point less.
const UNINTERRUPTED_ATTEMPTS: usize = 10;

/// The progress of the enumeration.
#[derive(Default)]
struct Points {
    interrupted: usize,
    uninterrupted: usize,
}

impl Points {
    /// Counts an attempt. Returns true at the end of the enumeration.
    fn count<T>(&mut self, done: &Option<T>) -> bool {
        match done {
            Some(_) => self.uninterrupted += 1,
            None => *self = Self { interrupted: self.interrupted + 1, uninterrupted: 0 },
        }
        self.uninterrupted == UNINTERRUPTED_ATTEMPTS
    }
}

/// Runs `work`, and drops it at its n-th wait; returns `None` then.
async fn interrupt<T>(mut work: Pin<Box<impl Future<Output = T>>>, mut n: usize) -> Option<T> {
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

pub(crate) fn parsed(request: &CreateOrderRequest) -> OrderRequest {
    let id = RequestId::parse(&request.request_id).unwrap();
    OrderRequest {
        customer: CustomerId::parse(&request.customer_id).unwrap(),
        id,
        cart_etag: None,
        expected_total: None,
        idempotent: IdempotentRequest::new(&Caller::Unrestricted, CREATE_ORDER, id, request),
    }
}

async fn check_out(sagas: &Sagas, request: &OrderRequest) -> Result<Order, Error> {
    let prepared = prepare(sagas, request).await?;
    execute(sagas, request, prepared).await
}

/// Creates an order.
pub(crate) async fn create_order(app: &FakeApp, sagas: &Sagas, customer: &str) -> OrderId {
    app.carts.put(customer, [item("tea", 499, 1)]);
    let order = check_out(sagas, &parsed(&create_request(customer))).await.unwrap();
    OrderId::parse(&order.order_id).unwrap()
}

/// Creates an order and abandons it while it is pending.
pub(crate) async fn abandon_pending(app: &FakeApp, sagas: &Sagas) -> OrderId {
    app.carts.put("left", [item("tea", 499, 1)]);
    app.stock.reserving.set(crate::fakes::Behavior::Hangs);
    let request = parsed(&create_request("left"));
    let time = std::time::Duration::from_millis(500);
    let _ = tokio::time::timeout(time, check_out(sagas, &request)).await.unwrap_err();
    app.stock.reserving.set(crate::fakes::Behavior::Works);
    let customer = CustomerId::parse("left").unwrap();
    sagas.store().list(&customer, None, 1).await.unwrap()[0].id()
}

async fn a_checkout_interrupted_anywhere_is_one_order(database: TestDatabase) {
    let mut app = FakeApp::spawn(database, 0).await;
    let sagas = app.sagas(Faults::default()).await;
    let (mut requests, mut points) = (Vec::new(), Points::default());
    for n in 0..MAX_ATTEMPTS {
        let request = create_request(&format!("customer {n}"));
        app.carts.put(&request.customer_id, [item("tea", 499, 1)]);
        let done = interrupt(Box::pin(check_out(&sagas, &parsed(&request))), points.interrupted).await;
        requests.push(request);
        if points.count(&done) {
            break;
        }
    }
    assert!(
        points.interrupted >= 5 && points.uninterrupted == UNINTERRUPTED_ATTEMPTS,
        "{} points",
        points.interrupted
    );
    app.expire_leases().await;
    app.add_replica().await;
    for request in &requests {
        let order = app.retry(|| app.create(0, request.clone())).await.unwrap();
        assert_eq!(order.state(), OrderState::Confirmed);
        assert_eq!(app.stock.of(&order.order_id), Some(ReservationState::Committed));
        assert_eq!(app.list(&request.customer_id, 0, "").await.0, [order]);
        assert!(app.carts.cart(&request.customer_id).items.is_empty());
    }
    assert_eq!(app.stock.taken(), i64::try_from(requests.len()).unwrap());
}

/// Interrupts `command` at every point, each on a new order after the commands
/// `before`; returns the orders' ids.
async fn interrupt_everywhere(
    app: &FakeApp,
    sagas: &Sagas,
    before: &[OrderCommand],
    command: &OrderCommand,
) -> Vec<String> {
    let (mut ids, mut points) = (Vec::new(), Points::default());
    for n in 0..MAX_ATTEMPTS {
        let id = create_order(app, sagas, &format!("customer {n}")).await;
        for command in before {
            command.execute(sagas, snapshot(sagas, id).await).await.unwrap();
        }
        ids.push(id.to_string());
        let done =
            interrupt(Box::pin(command.execute(sagas, snapshot(sagas, id).await)), points.interrupted).await;
        if points.count(&done) {
            break;
        }
    }
    assert!(
        points.interrupted >= 2 && points.uninterrupted == UNINTERRUPTED_ATTEMPTS,
        "{} points",
        points.interrupted
    );
    ids
}

fn pay() -> OrderCommand {
    OrderCommand::Pay(PaymentMethod::parse(CARD).unwrap())
}

async fn a_payment_interrupted_anywhere_is_one_charge(database: TestDatabase) {
    let mut app = FakeApp::spawn(database, 0).await;
    let sagas = app.sagas(Faults::default()).await;
    let ids = Box::pin(interrupt_everywhere(&app, &sagas, &[], &pay())).await;
    app.expire_leases().await;
    app.add_replica().await;
    for id in &ids {
        let order = app.retry(|| app.pay(0, id, CARD)).await.unwrap();
        assert_eq!(order.state(), OrderState::Paid);
        assert_eq!(app.payments.of(id), Some(ChargeState::Succeeded));
    }
}

async fn a_cancellation_interrupted_anywhere_refunds_and_releases(database: TestDatabase) {
    let mut app = FakeApp::spawn(database, 0).await;
    let sagas = app.sagas(Faults::default()).await;
    let ids = Box::pin(interrupt_everywhere(&app, &sagas, &[pay()], &OrderCommand::Cancel)).await;
    app.expire_leases().await;
    app.add_replica().await;
    for id in &ids {
        let order = app.retry(|| app.cancel(0, id)).await.unwrap();
        assert_eq!(order.state(), OrderState::Cancelled);
        assert_eq!(app.payments.of(id), Some(ChargeState::Refunded));
        assert_eq!(app.stock.of(id), Some(ReservationState::Released));
    }
    assert_eq!((app.payments.unrefunded(), app.stock.taken()), (0, 0));
}

async fn a_shipment_interrupted_anywhere_arrives(database: TestDatabase) {
    let mut app = FakeApp::spawn(database, 0).await;
    let sagas = app.sagas(Faults::default()).await;
    let ids = Box::pin(interrupt_everywhere(&app, &sagas, &[pay()], &OrderCommand::Ship)).await;
    app.expire_leases().await;
    app.add_replica().await;
    for id in &ids {
        let order = app.retry(|| app.ship(0, id)).await.unwrap();
        assert_eq!(order.state(), OrderState::Shipped);
    }
    assert_eq!(app.payments.unrefunded(), ids.len());
}

async fn a_refused_shipment_interrupted_anywhere_is_refunded(database: TestDatabase) {
    let mut app = FakeApp::spawn(database, 0).await;
    let sagas = app.sagas(Faults { refuse: 1.0, ..Faults::default() }).await;
    let ids = Box::pin(interrupt_everywhere(&app, &sagas, &[pay()], &OrderCommand::Ship)).await;
    app.expire_leases().await;
    app.add_replica().await;
    for id in &ids {
        // An order whose refusal was not written before the crash is shipped: the
        // new replica's carrier accepts it.
        match app.retry(|| app.ship(0, id)).await {
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
    a_checkout_interrupted_anywhere_is_one_order,
    a_payment_interrupted_anywhere_is_one_charge,
    a_cancellation_interrupted_anywhere_refunds_and_releases,
    a_shipment_interrupted_anywhere_arrives,
    a_refused_shipment_interrupted_anywhere_is_refunded,
);
