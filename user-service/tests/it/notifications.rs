//! `ListNotifications`, and the events that lead to them.

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

    async fn told(&self, customer: &str) -> Vec<String> {
        let (told, _) = self.page(customer, 1_000, "").await.unwrap();
        told.into_iter().map(|told| told.text).collect()
    }
}

async fn a_customer_is_told_of_each_change_once_and_in_order(database: TestDatabase) {
    let app = TestApp::with_replicas(database, 2).await;
    let events = [
        changed("o-1", 1, "ada", OrderState::Confirmed),
        changed("o-1", 2, "ada", OrderState::Paid),
        changed("o-2", 1, "bob", OrderState::Cancelled),
    ];
    for replica in [0, 1, 0] {
        assert_eq!(app.deliver(replica, &events).await.unwrap(), 3);
    }
    let (told, token) = app.page("ada", 0, "").await.unwrap();
    let paid = Notification {
        event_id: events[1].event_id.clone(),
        order_id: "o-1".into(),
        order_etag: "2".into(),
        text: "Order o-1 is paid: 24.95 EUR.".into(),
        create_time: events[1].create_time,
    };
    assert_eq!((told.len(), &told[1], token.as_str()), (2, &paid, ""));
    assert_eq!(app.told("bob").await, ["Order o-2 is cancelled."]);
    assert!(app.told("eve").await.is_empty());
}

async fn what_does_not_concern_customers_is_taken_and_what_is_wrong_is_set_aside(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let product = ProductDeleted { product_id: "tea".into() };
    let events = [
        event(Payload::ProductDeleted(product), "tea", 1),
        event(Payload::OrderChanged(OrderChanged { order: None }), "o-1", 1),
        changed("o-2", 1, "a\0b", OrderState::Paid),
        changed("o-3", 1, "ada", OrderState::Paid),
    ];
    assert_eq!(app.deliver(0, &events).await.unwrap(), 4);
    assert_eq!(app.told("ada").await, ["Order o-3 is paid: 24.95 EUR."]);
}

async fn pages_follow_one_another_oldest_first(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let events: Vec<_> = (0..25).map(|n| changed(&format!("o-{n}"), 1, "ada", OrderState::Paid)).collect();
    app.deliver(0, &events).await.unwrap();
    let (mut all, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let (page, next) = app.page("ada", 10, &token).await.unwrap();
        all.extend(page.into_iter().map(|told| told.order_id));
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

async fn nothing_is_kept_of_who_is_gone(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let ada = app.ada().await.user_id;
    app.deliver(0, &[changed("o-1", 1, &ada, OrderState::Paid)]).await.unwrap();
    assert_eq!(app.told(&ada).await.len(), 1);
    app.delete(&ada).await.unwrap();
    assert!(app.told(&ada).await.is_empty());
    app.deliver(0, &[changed("o-1", 2, &ada, OrderState::Shipped)]).await.unwrap();
    assert!(app.told(&ada).await.is_empty());
}

on_both_databases!(
    a_customer_is_told_of_each_change_once_and_in_order,
    what_does_not_concern_customers_is_taken_and_what_is_wrong_is_set_aside,
    pages_follow_one_another_oldest_first,
    nothing_is_kept_of_who_is_gone,
);
