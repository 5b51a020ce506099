//! Many buyers of few pieces.

use std::{future::Future, sync::Arc};

use mesh_proto::shop::product::v1::{Reservation, ReservationState};
use product_service::{
    Error, NAME, ProductService, SUBSCRIBERS,
    domain::{self, InvalidTransition, Item, Items, Lease, ReservationId},
    store::Store,
};
use service_kit::{
    database::Database,
    events::Outbox,
    on_both_databases,
    service::Service,
    testing::TestDatabase,
    value::{Quantity, Sku},
};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::app::{TestApp, expire, new_id};

/// Repeats a call while the service is overloaded.
async fn retry<F>(mut call: impl FnMut() -> F) -> Result<Reservation, Status>
where
    F: Future<Output = Result<Reservation, Status>>,
{
    for _ in 0..1_000 {
        match call().await {
            Err(why) if matches!(why.code(), Code::ResourceExhausted | Code::Unavailable) => {}
            done => return done,
        }
    }
    panic!("refused a thousand times");
}

async fn five_hundred_buyers_of_a_hundred_pieces_get_just_those(database: TestDatabase) {
    let app = Arc::new(TestApp::with_replicas(database, 2).await);
    app.stocked("tea", 100).await;
    let mut buying = JoinSet::new();
    for _ in 0..500 {
        let app = app.clone();
        buying.spawn(async move {
            let id = new_id();
            match retry(|| app.reserve(&id, &[("tea", 1)])).await {
                Ok(_) => retry(|| app.commit(&id)).await.map(|_| true).unwrap(),
                Err(why) => {
                    assert_eq!(why.code(), Code::FailedPrecondition, "{why:?}");
                    false
                }
            }
        });
    }
    let bought = buying.join_all().await.into_iter().filter(|bought| *bought).count();
    assert_eq!((bought, app.pieces("tea").await), (100, (0, 0, 100)));
}

async fn reservations_of_the_same_products_in_opposite_orders_do_not_deadlock(database: TestDatabase) {
    let app = Arc::new(TestApp::with_replicas(database, 2).await);
    let skus = ["a", "b", "c", "d", "e"];
    for sku in skus {
        app.stocked(sku, 1_000).await;
    }
    let mut buying = JoinSet::new();
    for buyer in 0..60 {
        let app = app.clone();
        buying.spawn(async move {
            let mut items: Vec<_> = skus.into_iter().map(|sku| (sku, 1)).collect();
            items.rotate_left(buyer % 5);
            if buyer % 2 == 0 {
                items.reverse();
            }
            let id = new_id();
            retry(|| app.reserve(&id, &items)).await.unwrap();
            match buyer % 3 {
                0 => retry(|| app.commit(&id)).await.unwrap(),
                1 => retry(|| app.release(&id)).await.unwrap(),
                _ => retry(|| app.reserve(&id, &items)).await.unwrap(),
            }
        });
    }
    buying.join_all().await;
    for sku in skus {
        assert_eq!(app.pieces(sku).await, (960, 20, 20));
    }
}

async fn a_hundred_calls_for_one_reservation_reserve_once(database: TestDatabase) {
    let app = Arc::new(TestApp::with_replicas(database, 2).await);
    app.stocked("tea", 100).await;
    let id = new_id();
    let mut calling = JoinSet::new();
    for _ in 0..100 {
        let (app, id) = (app.clone(), id.clone());
        calling.spawn(async move { retry(|| app.reserve(&id, &[("tea", 1)])).await.unwrap() });
    }
    let answers = calling.join_all().await;
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(app.pieces("tea").await, (99, 1, 0));
}

async fn a_concurrent_release_and_reservation_leave_nothing_reserved(database: TestDatabase) {
    let app = Arc::new(TestApp::with_replicas(database, 2).await);
    app.stocked("tea", 100).await;
    let mut meeting = JoinSet::new();
    for n in 0..60 {
        let app = app.clone();
        meeting.spawn(async move {
            let id = new_id();
            let reserved = retry(|| app.reserve(&id, &[("tea", 1)]));
            let released = retry(|| app.release(&id));
            let (reserved, released) = if n % 2 == 0 {
                tokio::join!(reserved, released)
            } else {
                let (released, reserved) = tokio::join!(released, reserved);
                (reserved, released)
            };
            assert_eq!(released.unwrap().state(), ReservationState::Released);
            if let Err(why) = reserved {
                assert_eq!(why.code(), Code::FailedPrecondition, "{why:?}");
            }
        });
    }
    meeting.join_all().await;
    assert_eq!(app.pieces("tea").await, (100, 0, 0));
}

/// A store without a service, so that nothing sweeps.
async fn store(database: &TestDatabase) -> (Store, Database) {
    let open = Database::open(database.url(), &ProductService::MIGRATIONS).await.unwrap();
    (Store::new(open.clone(), Outbox::new(NAME, SUBSCRIBERS)), open)
}

fn teas(pieces: u16) -> Items {
    let quantity = Quantity::parse(pieces).unwrap();
    Items::of(vec![Item { sku: Sku::parse("tea").unwrap(), quantity }]).unwrap()
}

/// A lease expires while a call commits and two others sweep: the pieces are sold or
/// returned, once.
async fn a_lease_that_expires_during_its_commit_counts_once(database: TestDatabase) {
    let first = TestApp::spawn(database).await;
    first.stocked("tea", 50).await;
    let database = first.stop().await;
    let (one, open) = store(&database).await;
    let (other, _) = store(&database).await;
    let mut racing = JoinSet::new();
    for n in 0..50 {
        let (one, other, open) = (one.clone(), other.clone(), open.clone());
        racing.spawn(async move {
            let id = new_id();
            let key = ReservationId::parse(&id).unwrap();
            one.reserve(key, &teas(1), Lease::DEFAULT).await.unwrap();
            expire(&open, &id).await;
            assert_eq!(one.reservation(key).await.unwrap().state, domain::ReservationState::Expired);
            let ended = async {
                match n % 3 {
                    0 => other.commit(key).await.map(drop),
                    1 => other.release(key).await.map(drop),
                    _ => other.reserve(key, &teas(1), Lease::DEFAULT).await.map(drop),
                }
            };
            let (ended, swept, again) = tokio::join!(ended, one.sweep(), other.sweep());
            // There are fifty pieces, one for each.
            ended.unwrap();
            swept.unwrap();
            again.unwrap();
        });
    }
    racing.join_all().await;
    let stock = one.stock(&Sku::parse("tea").unwrap()).await.unwrap();
    assert_eq!((stock.available, stock.reserved, stock.sold), (17, 16, 17));
    let unknown = ReservationId::parse(&new_id()).unwrap();
    assert!(matches!(one.commit(unknown).await, Err(Error::Transition(_, InvalidTransition::NotFound))));
}

async fn a_sweep_ends_all_expired_leases_and_no_others(database: TestDatabase) {
    let first = TestApp::spawn(database).await;
    first.stocked("tea", 999).await;
    let database = first.stop().await;
    let (store, open) = store(&database).await;
    for n in 0..250 {
        let id = new_id();
        let key = ReservationId::parse(&id).unwrap();
        store.reserve(key, &teas(1), Lease::DEFAULT).await.unwrap();
        if n % 5 > 0 {
            expire(&open, &id).await;
        }
    }
    let mut ended = Vec::new();
    loop {
        let sweep = store.sweep().await.unwrap();
        ended.push(sweep.ended);
        match sweep.next {
            Some(next) if !next.is_zero() => break,
            _ => {}
        }
    }
    assert_eq!(ended, [100, 100, 0]);
    let stock = store.stock(&Sku::parse("tea").unwrap()).await.unwrap();
    assert_eq!((stock.available, stock.reserved, stock.sold), (949, 50, 0));
}

on_both_databases!(
    five_hundred_buyers_of_a_hundred_pieces_get_just_those,
    reservations_of_the_same_products_in_opposite_orders_do_not_deadlock,
    a_hundred_calls_for_one_reservation_reserve_once,
    a_concurrent_release_and_reservation_leave_nothing_reserved,
    a_lease_that_expires_during_its_commit_counts_once,
    a_sweep_ends_all_expired_leases_and_no_others,
);
