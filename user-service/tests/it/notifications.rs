//! `ListNotifications` and the events behind them.

use mesh_proto::shop::{
    events::v1::{
        DeliverRequest, Event, OrderChanged, ProductDeleted, event::Payload,
        event_sink_service_client::EventSinkServiceClient,
    },
    order::v1::{Order, OrderState},
    user::v1::{ListNotificationsRequest, Notification},
};
use service_kit::{
    on_both_databases,
    testing::{TestDatabase, mesh_to},
};
use tonic::{Code, Status};
use user_service::NAME;

use crate::app::{TestApp, refused_field};

fn changed(order: &str, sequence: i64, customer: &str, state: OrderState) -> Event {
    let order = Order {
        order_id: order.into(),
        customer_id: customer.into(),
        state: state.into(),
        total: Some(mesh_proto::google::r#type::Money {
            currency_code: "EUR".into(),
            units: 24,
            nanos: 950_000_000,
        }),
        etag: sequence.to_string(),
        ..Order::default()
    };
    event(Payload::OrderChanged(OrderChanged { order: Some(order.clone()) }), &order.order_id, sequence)
}

fn event(payload: Payload, aggregate: &str, sequence: i64) -> Event {
    Event {
        event_id: uuid::Uuid::now_v7().to_string(),
        source: "order-service".into(),
        aggregate_id: aggregate.into(),
        sequence,
        // To the microsecond, as it is kept.
        create_time: Some(prost_types::Timestamp { nanos: 5_000, ..std::time::SystemTime::now().into() }),
        payload: Some(payload),
    }
}

impl TestApp {
    async fn deliver(&self, replica: usize, events: &[Event]) -> Result<i32, Status> {
        let channel = mesh_to([self.replicas[replica].address]).channel(NAME);
        let request = DeliverRequest { events: events.to_vec() };
        Ok(EventSinkServiceClient::new(channel).deliver(request).await?.into_inner().taken)
    }

    async fn page(
        &self,
        customer_id: &str,
        page_size: i32,
        page_token: &str,
    ) -> Result<(Vec<Notification>, String), Status> {
        let request = ListNotificationsRequest {
            customer_id: customer_id.into(),
            page_size,
            page_token: page_token.into(),
        };
        let page = self.replica(0).list_notifications(request).await?.into_inner();
        Ok((page.notifications, page.next_page_token))
    }

    async fn texts(&self, customer: &str) -> Vec<String> {
        let (notifications, _) = self.page(customer, 1_000, "").await.unwrap();
        notifications.into_iter().map(|notification| notification.text).collect()
    }
}

async fn a_customer_is_notified_of_each_change_once_and_in_order(database: TestDatabase) {
    let app = TestApp::with_replicas(database, 2).await;
    let events = [
        changed("o-1", 1, "ada", OrderState::Confirmed),
        changed("o-1", 2, "ada", OrderState::Paid),
        changed("o-2", 1, "bob", OrderState::Cancelled),
    ];
    for replica in [0, 1, 0] {
        assert_eq!(app.deliver(replica, &events).await.unwrap(), 3);
    }
    let (notifications, token) = app.page("ada", 0, "").await.unwrap();
    let paid = Notification {
        event_id: events[1].event_id.clone(),
        order_id: "o-1".into(),
        order_etag: "2".into(),
        text: "Order o-1 is paid: 24.95 EUR.".into(),
        create_time: events[1].create_time,
    };
    assert_eq!((notifications.len(), &notifications[1], token.as_str()), (2, &paid, ""));
    assert_eq!(app.texts("bob").await, ["Order o-2 is cancelled."]);
    assert!(app.texts("eve").await.is_empty());
}

async fn irrelevant_events_are_skipped_and_malformed_ones_parked(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let product = ProductDeleted { product_id: "tea".into() };
    let events = [
        event(Payload::ProductDeleted(product), "tea", 1),
        event(Payload::OrderChanged(OrderChanged { order: None }), "o-1", 1),
        changed("o-2", 1, "a\0b", OrderState::Paid),
        changed("o-3", 1, "ada", OrderState::Paid),
    ];
    assert_eq!(app.deliver(0, &events).await.unwrap(), 4);
    assert_eq!(app.texts("ada").await, ["Order o-3 is paid: 24.95 EUR."]);
}

async fn pages_follow_one_another_oldest_first(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let events: Vec<_> = (0..25).map(|n| changed(&format!("o-{n}"), 1, "ada", OrderState::Paid)).collect();
    app.deliver(0, &events).await.unwrap();
    let (mut all, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let (page, next) = app.page("ada", 10, &token).await.unwrap();
        all.extend(page.into_iter().map(|notification| notification.order_id));
        pages += 1;
        token = next;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!((all, pages), ((0..25).map(|n| format!("o-{n}")).collect(), 3));
    let (_, token) = app.page("ada", 1, "").await.unwrap();
    refused_field(app.page("bob", 1, &token).await, "page_token");
    refused_field(app.page("ada", -1, "").await, "page_size");
    refused_field(app.page("ada", 0, "mine").await, "page_token");
    refused_field(app.page("", 0, "").await, "customer_id");
    assert_eq!(app.page(&"a".repeat(1 << 20), 0, "").await.unwrap_err().code(), Code::InvalidArgument);
}

async fn the_notifications_of_a_deleted_account_are_deleted(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let ada = app.ada().await.user_id;
    app.deliver(0, &[changed("o-1", 1, &ada, OrderState::Paid)]).await.unwrap();
    assert_eq!(app.texts(&ada).await.len(), 1);
    app.delete(&ada).await.unwrap();
    assert!(app.texts(&ada).await.is_empty());
    app.deliver(0, &[changed("o-1", 2, &ada, OrderState::Shipped)]).await.unwrap();
    assert!(app.texts(&ada).await.is_empty());
}

on_both_databases!(
    a_customer_is_notified_of_each_change_once_and_in_order,
    irrelevant_events_are_skipped_and_malformed_ones_parked,
    pages_follow_one_another_oldest_first,
    the_notifications_of_a_deleted_account_are_deleted,
);
