//! Several replicas on one database.

use service_kit::{on_both_databases, testing::TestDatabase};
use tokio::task::JoinSet;
use tonic::Code;

use crate::app::{TestApp, addition, contents};

async fn pieces_added_through_two_replicas_at_once_all_count(database: TestDatabase) {
    let app = TestApp::with_replicas(database, 2).await;
    let mut adding = JoinSet::new();
    for n in 0..60 {
        let (mut carts, product) = (app.replica(n % 2), ["tea", "mug"][n / 2 % 2]);
        adding.spawn(async move { carts.add_item(addition(product, 1, "")).await.unwrap() });
    }
    adding.join_all().await;
    let cart = app.get().await.unwrap();
    let mut items: Vec<_> = contents(&cart).split(' ').map(str::to_owned).collect();
    items.sort();
    assert_eq!((items, cart.etag.as_str()), (vec!["mug*30".to_owned(), "tea*30".to_owned()], "60"));
}

async fn one_of_many_concurrent_changes_with_the_same_etag_succeeds(database: TestDatabase) {
    let app = TestApp::with_replicas(database, 2).await;
    let mut adding = JoinSet::new();
    for n in 0..20 {
        let mut carts = app.replica(n % 2);
        adding.spawn(async move { carts.add_item(addition("tea", 1, "0")).await });
    }
    let (done, refused): (Vec<_>, Vec<_>) = adding.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!((done.len(), refused.len()), (1, 19));
    for result in refused {
        assert_eq!(result.unwrap_err().code(), Code::Aborted);
    }
    assert_eq!(contents(&app.get().await.unwrap()), "tea*1");
}

on_both_databases!(
    pieces_added_through_two_replicas_at_once_all_count,
    one_of_many_concurrent_changes_with_the_same_etag_succeeds,
);
