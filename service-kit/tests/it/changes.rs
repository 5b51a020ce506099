//! What one replica changes, another hears of.

use std::time::Duration;

use service_kit::{changes::Subscription, on_both_databases, testing::TestDatabase};
use tokio::time::timeout;

use crate::database::{open, raise};

async fn heard(subscription: &mut Subscription) -> bool {
    timeout(Duration::from_secs(10), subscription.changed()).await.is_ok()
}

async fn a_change_is_heard_through_every_replica(database: TestDatabase) {
    let (one, other) = (open(&database).await, open(&database).await);
    let mut here = one.changes().subscribe("a");
    let mut there = other.changes().subscribe("a");
    for _ in 0..3 {
        raise(&one, "a").await;
        assert!(heard(&mut here).await && heard(&mut there).await);
        raise(&other, "a").await;
        assert!(heard(&mut here).await && heard(&mut there).await);
    }
}

async fn a_subscriber_hears_of_what_happened_right_after_it_came(database: TestDatabase) {
    let (one, other) = (open(&database).await, open(&database).await);
    for _ in 0..5 {
        let mut there = other.changes().subscribe("a");
        raise(&one, "a").await;
        assert!(heard(&mut there).await);
    }
}

on_both_databases!(
    a_change_is_heard_through_every_replica,
    a_subscriber_hears_of_what_happened_right_after_it_came,
);
