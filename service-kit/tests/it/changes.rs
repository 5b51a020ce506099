//! Changes by one replica, seen by another.

use std::time::Duration;

use service_kit::{
    changes::Subscription,
    database::{Database, Error},
    on_both_databases,
    testing::TestDatabase,
};
use tokio::time::timeout;

use crate::database::{open, raise};

async fn received(subscription: &mut Subscription) -> bool {
    timeout(Duration::from_secs(10), subscription.changed()).await.is_ok()
}

async fn a_change_is_received_through_every_replica(database: TestDatabase) {
    let (one, other) = (open(&database).await, open(&database).await);
    let mut here = one.changes().subscribe("a");
    let mut there = other.changes().subscribe("a");
    for _ in 0..3 {
        raise(&one, "a").await;
        assert!(received(&mut here).await && received(&mut there).await);
        raise(&other, "a").await;
        assert!(received(&mut here).await && received(&mut there).await);
    }
}

async fn a_subscriber_hears_of_what_happened_right_after_it_came(database: TestDatabase) {
    let (one, other) = (open(&database).await, open(&database).await);
    for _ in 0..5 {
        let mut there = other.changes().subscribe("a");
        raise(&one, "a").await;
        assert!(received(&mut there).await);
    }
}

async fn announce(database: &Database) -> Result<(), Error> {
    let mut open = database.begin().await?;
    open.changed("a").await?;
    open.commit().await
}

#[tokio::test]
async fn connections_that_the_server_cuts_are_made_anew() {
    let server = TestDatabase::postgres().await;
    let (one, other) = (open(&server).await, open(&server).await);
    let mut there = other.changes().subscribe("a");
    raise(&one, "a").await;
    raise(&other, "a").await;
    assert!(received(&mut there).await);

    const CUT: &str = "SELECT count(pg_terminate_backend(pid)) AS cut FROM pg_stat_activity \
         WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let cut: i64 = one.row(CUT, &[]).await.unwrap().unwrap().get("cut").unwrap();
    assert!(cut >= 1, "no session listened");

    // Calls may fail until every connection that was cut has been noticed.
    let again = async {
        while other.row("SELECT 1", &[]).await.is_err() {}
        while announce(&one).await.is_err()
            || timeout(Duration::from_millis(100), there.changed()).await.is_err()
        {}
    };
    timeout(Duration::from_secs(5), again).await.unwrap();
}

on_both_databases!(
    a_change_is_received_through_every_replica,
    a_subscriber_hears_of_what_happened_right_after_it_came,
);
