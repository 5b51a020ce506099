//! The states of a reservation.

use std::time::Duration;

use mesh_proto::shop::product::v1::ReservationState::{Committed, Expired, Held, Released};
use product_service::{NAME, SUBSCRIBERS, store::Store};
use service_kit::{events::Outbox, on_both_databases, testing::TestDatabase};
use tokio::time::timeout;
use tonic::Code;

use crate::app::{TestApp, assert_state, new_id, refused, refused_field};

const NO_UUID: &str = "00000000-0000-0000-0000-000000000000";

/// An app with five teas and five mugs, and an id.
async fn five(database: TestDatabase) -> (TestApp, String) {
    let app = TestApp::spawn(database).await;
    app.stocked("tea", 5).await;
    app.stocked("mug", 5).await;
    (app, new_id())
}

async fn a_repeated_reserve_reserves_once(database: TestDatabase) {
    let (app, id) = five(database).await;
    let held = assert_state(app.reserve(&id, &[("tea", 2), ("mug", 1)]).await, Held);
    let items: Vec<_> = held.items.iter().map(|item| (item.product_id.as_str(), item.quantity)).collect();
    assert_eq!(items, [("mug", 1), ("tea", 2)]);
    // In another order and spelling it is the same; and the lease stays.
    let again = app.reserve(&id.to_uppercase(), &[("mug", 1), ("tea", 2)]).await;
    assert_eq!(assert_state(again, Held), held);
    assert_eq!(app.reservation(&id).await.unwrap(), held);
    assert_eq!((app.pieces("tea").await, app.pieces("mug").await), ((3, 2, 0), (4, 1, 0)));
    for other in [&[("tea", 3), ("mug", 1)][..], &[("tea", 2)]] {
        refused(app.reserve(&id, other).await, Code::InvalidArgument, "RESERVATION_ID_REUSED");
    }
}

async fn a_committed_reservation_stays_so_until_it_is_released(database: TestDatabase) {
    let (app, id) = five(database).await;
    app.reserve(&id, &[("tea", 2)]).await.unwrap();
    for _ in 0..2 {
        assert_state(app.commit(&id).await, Committed);
        assert_state(app.reserve(&id, &[("tea", 2)]).await, Committed);
        assert_eq!(app.pieces("tea").await, (3, 0, 2));
    }
    for _ in 0..2 {
        assert_state(app.release(&id).await, Released);
        assert_eq!(app.pieces("tea").await, (5, 0, 0));
        refused(app.commit(&id).await, Code::FailedPrecondition, "RESERVATION_RELEASED");
        let again = app.reserve(&id, &[("tea", 2)]).await;
        refused(again, Code::FailedPrecondition, "RESERVATION_RELEASED");
    }
    assert_eq!(assert_state(app.reservation(&id).await, Released).items.len(), 1);
}

async fn a_reservation_released_before_it_is_made_is_never_made(database: TestDatabase) {
    let (app, id) = five(database).await;
    refused(app.reservation(&id).await, Code::NotFound, "RESERVATION_NOT_FOUND");
    refused(app.commit(&id).await, Code::NotFound, "RESERVATION_NOT_FOUND");
    let released = assert_state(app.release(&id).await, Released);
    assert!(released.items.is_empty());
    let late = app.reserve(&id, &[("tea", 2)]).await;
    refused(late, Code::FailedPrecondition, "RESERVATION_RELEASED");
    assert_eq!(app.reservation(&id).await.unwrap(), released);
    assert_eq!(app.pieces("tea").await, (5, 0, 0));
}

async fn all_items_are_reserved_or_none(database: TestDatabase) {
    let (app, id) = five(database).await;
    let short = app.reserve(&id, &[("mug", 5), ("tea", 6)]).await;
    let details = refused(short, Code::FailedPrecondition, "OUT_OF_STOCK");
    let facts = &details.error_info().unwrap().metadata;
    assert_eq!((facts["product_ids"].as_str(), facts["available"].as_str()), ("tea", "5"));
    let unknown = app.reserve(&id, &[("mug", 6), ("unknown", 1)]).await;
    let details = refused(unknown, Code::NotFound, "PRODUCT_NOT_FOUND");
    assert_eq!(details.error_info().unwrap().metadata["product_ids"], "unknown");
    refused(app.reservation(&id).await, Code::NotFound, "RESERVATION_NOT_FOUND");
    assert_eq!((app.pieces("tea").await, app.pieces("mug").await), ((5, 0, 0), (5, 0, 0)));
    // Nothing is known of the id, so it may be used for something else.
    assert_state(app.reserve(&id, &[("mug", 5), ("tea", 5)]).await, Held);
}

async fn a_hundred_short_products_make_a_small_error(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let skus: Vec<_> = (0..100).map(|n| format!("{n:064}")).collect();
    for sku in &skus {
        app.stocked(sku, 0).await;
    }
    let items: Vec<_> = skus.iter().map(|sku| (sku.as_str(), 1)).collect();
    let details = refused(app.reserve(&new_id(), &items).await, Code::FailedPrecondition, "OUT_OF_STOCK");
    assert_eq!(details.error_info().unwrap().metadata["products"], "100");
}

async fn an_expired_lease_returns_its_pieces(database: TestDatabase) {
    let (app, id) = five(database).await;
    let second = prost_types::Duration { seconds: 1, nanos: 0 };
    assert_state(app.reserve_for(&id, &[("tea", 5)], Some(second)).await, Held);
    let returned = async { while app.pieces("tea").await != (5, 0, 0) {} };
    timeout(Duration::from_secs(10), returned).await.unwrap();
    assert_state(app.reservation(&id).await, Expired);
    // Asked for again it is made anew, if there are pieces.
    let other = new_id();
    app.reserve(&other, &[("tea", 1)]).await.unwrap();
    for refused_again in [app.reserve(&id, &[("tea", 5)]).await, app.commit(&id).await] {
        refused(refused_again, Code::FailedPrecondition, "OUT_OF_STOCK");
        assert_state(app.reservation(&id).await, Expired);
    }
    app.release(&other).await.unwrap();
    assert_state(app.reserve(&id, &[("tea", 5)]).await, Held);
    assert_eq!(app.pieces("tea").await, (0, 5, 0));
}

async fn an_expired_reservation_is_committed_while_pieces_are_available(database: TestDatabase) {
    let (app, id) = five(database).await;
    app.reserve(&id, &[("tea", 5), ("mug", 1)]).await.unwrap();
    app.expire(&id).await;
    assert_state(app.commit(&id).await, Committed);
    assert_eq!((app.pieces("tea").await, app.pieces("mug").await), ((0, 0, 5), (4, 0, 1)));
    let released = new_id();
    app.reserve(&released, &[("mug", 4)]).await.unwrap();
    app.expire(&released).await;
    assert_state(app.release(&released).await, Released);
    assert_eq!(app.pieces("mug").await, (4, 0, 1));
}

async fn old_ended_reservations_are_deleted_and_held_or_sold_ones_are_not(database: TestDatabase) {
    let (app, sold) = five(database).await;
    let [released, never_made, expired, again, held] = [(); 5].map(|()| new_id());
    for id in [&sold, &released, &expired, &again, &held] {
        app.reserve(id, &[("tea", 1)]).await.unwrap();
    }
    app.commit(&sold).await.unwrap();
    app.release(&released).await.unwrap();
    app.release(&never_made).await.unwrap();
    for id in [&expired, &again] {
        app.expire(id).await;
    }
    let swept = async { while app.pieces("tea").await != (3, 1, 1) {} };
    timeout(Duration::from_secs(10), swept).await.unwrap();
    assert_state(app.reserve(&again, &[("tea", 1)]).await, Held);

    let store = Store::new(app.database().await, Outbox::new(NAME, SUBSCRIBERS));
    assert_eq!(store.delete_old_reservations(Duration::from_secs(3_600)).await.unwrap(), 0);
    assert_eq!(store.delete_old_reservations(Duration::ZERO).await.unwrap(), 3);
    for id in [&released, &never_made, &expired] {
        refused(app.reservation(id).await, Code::NotFound, "RESERVATION_NOT_FOUND");
    }
    for (id, state) in [(&sold, Committed), (&again, Held), (&held, Held)] {
        assert_state(app.reservation(id).await, state);
    }
    assert_eq!(app.pieces("tea").await, (2, 2, 1));
}

async fn reservations_outlive_a_restart(database: TestDatabase) {
    let (app, id) = five(database).await;
    let held = app.reserve(&id, &[("tea", 2)]).await.unwrap();
    let app = app.restart().await;
    assert_eq!(app.reservation(&id).await.unwrap(), held);
    assert_state(app.commit(&id).await, Committed);
}

async fn malformed_requests_are_refused_by_their_fields(database: TestDatabase) {
    let (app, id) = five(database).await;
    for bad in ["", "1", NO_UUID] {
        refused_field(app.reserve(bad, &[("tea", 1)]).await, "reservation_id");
        refused_field(app.reservation(bad).await, "reservation_id");
        refused_field(app.commit(bad).await, "reservation_id");
        refused_field(app.release(bad).await, "reservation_id");
    }
    refused_field(app.reserve(&id, &[]).await, "items");
    refused_field(app.reserve(&id, &[("tea", 1); 101]).await, "items");
    refused_field(app.reserve(&id, &[("tea", 1), ("mug", 1), ("tea", 1)]).await, "items[2].product_id");
    refused_field(app.reserve(&id, &[("tea", 1), ("T", 1)]).await, "items[1].product_id");
    for quantity in [0, -1, 1_000, i32::MIN, i32::MAX] {
        refused_field(app.reserve(&id, &[("tea", quantity)]).await, "items[0].quantity");
    }
    let lease = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    for seconds in [0, 3_601, -1, i64::MIN] {
        refused_field(app.reserve_for(&id, &[("tea", 1)], lease(seconds)).await, "lease");
    }
}

on_both_databases!(
    a_repeated_reserve_reserves_once,
    a_committed_reservation_stays_so_until_it_is_released,
    a_reservation_released_before_it_is_made_is_never_made,
    all_items_are_reserved_or_none,
    a_hundred_short_products_make_a_small_error,
    an_expired_lease_returns_its_pieces,
    an_expired_reservation_is_committed_while_pieces_are_available,
    old_ended_reservations_are_deleted_and_held_or_sold_ones_are_not,
    reservations_outlive_a_restart,
    malformed_requests_are_refused_by_their_fields,
);
