//! Products are changed and deleted.

use mesh_proto::shop::{
    events::v1::{Event, event::Payload},
    product::v1::{Product, ReservationState},
};
use prost::Message;
use service_kit::{on_both_databases, testing::TestDatabase};
use tonic::Code;

use crate::app::{TestApp, assert_state, new_id, refused, refused_field, tea};

async fn only_the_fields_of_the_mask_change(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let created = app.create(tea()).await.unwrap();
    let other = Product {
        title: "Other".into(),
        description: "other".into(),
        price: Some(mesh_proto::google::r#type::Money { units: 9, nanos: 0, ..tea().price.unwrap() }),
        ..tea()
    };
    let titled = app.update(other.clone(), &["title"]).await.unwrap();
    assert_eq!(titled, Product { title: "Other".into(), etag: "2".into(), ..created.clone() });
    assert_eq!(app.get("tea").await.unwrap(), titled);
    let all = app.update(other.clone(), &[]).await.unwrap();
    assert_eq!(all, Product { etag: "3".into(), ..other.clone() });
    let star = app.update(tea(), &["*"]).await.unwrap();
    assert_eq!(star, Product { etag: "4".into(), ..tea() });
    refused_field(app.update(other.clone(), &["title", "etag"]).await, "update_mask");
    refused_field(app.update(Product { price: None, ..tea() }, &["price"]).await, "product.price");
    refused_field(app.update(Product { etag: "x".into(), ..tea() }, &[]).await, "product.etag");
    let unknown = Product { product_id: "unknown".into(), ..tea() };
    refused(app.update(unknown, &[]).await, Code::NotFound, "PRODUCT_NOT_FOUND");
}

async fn a_repeated_change_changes_once_and_an_outdated_one_fails(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    app.create(tea()).await.unwrap();
    let change = Product { title: "Other".into(), etag: "1".into(), ..tea() };
    let changed = app.update(change.clone(), &["title"]).await.unwrap();
    assert_eq!(app.update(change.clone(), &["title"]).await.unwrap(), changed);
    let differing = Product { title: "Third".into(), ..change };
    refused(app.update(differing, &["title"]).await, Code::Aborted, "PRODUCT_CHANGED");
    // A change without an effect makes no version.
    assert_eq!(app.update(Product { etag: String::new(), ..changed.clone() }, &[]).await.unwrap(), changed);
}

async fn a_deleted_product_may_be_created_again_as_a_later_version(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    app.stocked("tea", 5).await;
    refused(app.delete("tea", "7").await, Code::Aborted, "PRODUCT_CHANGED");
    app.delete("tea", "1").await.unwrap();
    app.delete("tea", "1").await.unwrap();
    app.delete("tea", "").await.unwrap();
    refused_field(app.delete("Tea", "").await, "product_id");
    refused(app.get("tea").await, Code::NotFound, "PRODUCT_NOT_FOUND");
    refused(app.stock("tea").await, Code::NotFound, "PRODUCT_NOT_FOUND");
    refused(app.reserve(&new_id(), &[("tea", 1)]).await, Code::NotFound, "PRODUCT_NOT_FOUND");

    let again = app.create(tea()).await.unwrap();
    assert!(again.etag.parse::<i64>().unwrap() > 2, "{again:?}");
    let stock = app.stock("tea").await.unwrap();
    assert_eq!((stock.available, stock.etag.as_str()), (0, "0"));
    app.set_stock("tea", 3, "0").await.unwrap();
    assert_state(app.reserve(&new_id(), &[("tea", 3)]).await, ReservationState::Held);
}

async fn a_product_with_reserved_pieces_cannot_be_deleted(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    app.stocked("tea", 5).await;
    let id = new_id();
    app.reserve(&id, &[("tea", 2)]).await.unwrap();
    refused(app.delete("tea", "").await, Code::FailedPrecondition, "PRODUCT_RESERVED");
    app.release(&id).await.unwrap();
    app.delete("tea", "").await.unwrap();
}

async fn sold_pieces_of_a_deleted_product_may_be_returned(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    app.stocked("tea", 5).await;
    let [sold, late] = [new_id(), new_id()];
    app.reserve(&sold, &[("tea", 2)]).await.unwrap();
    app.commit(&sold).await.unwrap();
    app.reserve(&late, &[("tea", 1)]).await.unwrap();
    app.expire(&late).await;
    assert_state(app.reservation(&late).await, ReservationState::Expired);
    // Deleting waits until the lease that ran out was swept.
    while let Err(why) = app.delete("tea", "").await {
        assert_eq!(why.code(), Code::FailedPrecondition, "{why:?}");
    }
    refused(app.commit(&late).await, Code::FailedPrecondition, "OUT_OF_STOCK");
    assert_state(app.release(&sold).await, ReservationState::Released);
    assert_state(app.release(&late).await, ReservationState::Released);
    app.create(tea()).await.unwrap();
    assert_eq!(app.pieces("tea").await, (2, 0, 0));
}

async fn each_change_leaves_one_event_in_its_order(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    app.create(tea()).await.unwrap();
    app.create(tea()).await.unwrap();
    let other = Product { title: "Other".into(), ..tea() };
    app.update(other.clone(), &["title"]).await.unwrap();
    app.update(other.clone(), &["title"]).await.unwrap();
    app.create(tea()).await.unwrap_err();
    app.delete("tea", "").await.unwrap();
    app.delete("tea", "").await.unwrap();
    app.create(tea()).await.unwrap();
    let rows = app.events("tea").await;
    let sequences: Vec<i64> = rows.iter().map(|row| row.get("sequence").unwrap()).collect();
    assert_eq!(sequences, [1, 2, 3, 4]);
    let titles: Vec<_> = rows
        .iter()
        .map(|row| {
            let event = Event::decode(&row.get::<Vec<u8>>("event").unwrap()[..]).unwrap();
            match event.payload.unwrap() {
                Payload::ProductChanged(changed) => changed.product.unwrap().title,
                Payload::ProductDeleted(deleted) => format!("no {}", deleted.product_id),
                other => panic!("{other:?}"),
            }
        })
        .collect();
    assert_eq!(titles, [tea().title.as_str(), "Other", "no tea", &tea().title]);
}

on_both_databases!(
    only_the_fields_of_the_mask_change,
    a_repeated_change_changes_once_and_an_outdated_one_fails,
    a_deleted_product_may_be_created_again_as_a_later_version,
    a_product_with_reserved_pieces_cannot_be_deleted,
    sold_pieces_of_a_deleted_product_may_be_returned,
    each_change_leaves_one_event_in_its_order,
);
