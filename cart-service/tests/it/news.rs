//! The events that carts receive.

use mesh_proto::shop::{
    cart::v1::Cart,
    events::v1::{
        DeliverRequest, Event, ProductChanged, ProductDeleted, UserDeleted, event::Payload,
        event_sink_service_client::EventSinkServiceClient,
    },
    product::v1::Product,
};
use service_kit::{
    on_both_databases,
    testing::{TestDatabase, mesh_to},
};
use tonic::{Code, Streaming};

use crate::{
    app::{CUSTOMER, TestApp, contents, refused},
    watch::next,
};

/// Delivers an event to the first replica, as its source does; returns true when it was
/// accepted.
async fn deliver(app: &TestApp, aggregate: &str, payload: Payload) -> bool {
    let event = Event {
        event_id: uuid::Uuid::now_v7().to_string(),
        source: "product-service".into(),
        aggregate_id: aggregate.into(),
        sequence: 1,
        create_time: Some(std::time::SystemTime::now().into()),
        payload: Some(payload),
    };
    let channel = mesh_to([app.replicas[0].address]).channel("cart-service");
    let request = DeliverRequest { events: vec![event] };
    let answer = EventSinkServiceClient::new(channel).deliver(request).await.unwrap().into_inner();
    answer.taken == 1
}

fn changed(product_id: &str) -> Payload {
    let product = Product { product_id: product_id.into(), ..Product::default() };
    Payload::ProductChanged(ProductChanged { product: Some(product) })
}

async fn price(watch: &mut Streaming<Cart>) -> (i64, Option<i64>) {
    let cart = next(watch).await.unwrap().unwrap();
    let item = &cart.items[0];
    (item.unit_price.as_ref().unwrap().units, item.previous_unit_price.as_ref().map(|money| money.units))
}

async fn a_watch_sends_the_cart_again_when_a_price_in_it_changes(database: TestDatabase) {
    let app = TestApp::with_replicas(database, 2).await;
    let before = app.add("tea", 1, "").await.unwrap();
    let (mut here, mut there) = (app.watch(0).await, app.watch(1).await);
    assert_eq!((price(&mut here).await, price(&mut there).await), ((4, None), (4, None)));
    // A product that is not in the cart sends nothing: the next message is the price.
    assert!(deliver(&app, "mug", changed("mug")).await);
    app.price("tea", 5).await;
    assert!(deliver(&app, "tea", changed("tea")).await);
    assert_eq!((price(&mut here).await, price(&mut there).await), ((5, Some(4)), (5, Some(4))));
    assert_eq!(app.get().await.unwrap().etag, before.etag, "the cart has not changed");
}

async fn a_watch_says_when_a_product_is_withdrawn(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    app.add("tea", 1, "").await.unwrap();
    let mut watch = app.watch(0).await;
    assert_eq!(price(&mut watch).await, (4, None));
    app.withdraw("tea").await;
    let gone = ProductDeleted { product_id: "tea".into() };
    assert!(deliver(&app, "tea", Payload::ProductDeleted(gone)).await);
    refused(next(&mut watch).await, Code::FailedPrecondition, "PRODUCT_WITHDRAWN");
}

async fn the_cart_of_a_deleted_account_is_deleted(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    app.add("tea", 1, "").await.unwrap();
    for user in ["another-user", CUSTOMER, CUSTOMER] {
        let gone = UserDeleted { user_id: user.into() };
        assert!(deliver(&app, user, Payload::UserDeleted(gone)).await);
        let left = app.get().await.unwrap();
        let expected = if user == CUSTOMER { ("", "0") } else { ("tea*1", "1") };
        assert_eq!((contents(&left).as_str(), left.etag.as_str()), expected);
    }
}

async fn a_malformed_event_is_parked_and_blocks_no_other(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    app.add("tea", 1, "").await.unwrap();
    assert!(deliver(&app, "TEA", changed("TEA")).await, "parked");
    assert!(deliver(&app, "tea", changed("tea")).await);
    assert_eq!(contents(&app.get().await.unwrap()), "tea*1");
}

on_both_databases!(
    a_watch_sends_the_cart_again_when_a_price_in_it_changes,
    a_watch_says_when_a_product_is_withdrawn,
    the_cart_of_a_deleted_account_is_deleted,
    a_malformed_event_is_parked_and_blocks_no_other,
);
