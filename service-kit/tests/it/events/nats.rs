//! What a NATS server can do to events.

use std::time::Duration;

use service_kit::{on_both_databases, testing::TestDatabase};

use super::bed::Bed;

async fn events_wait_for_a_nats_server_that_is_away(database: TestDatabase) {
    let mut bed = Bed::by_nats(database).await;
    bed.server.as_mut().unwrap().kill();
    // Services start without it.
    let consumer = bed.consume().await;
    let _producer = bed.produce(&[consumer.address]).await;
    bed.tell("thing").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(bed.count("SELECT count(*) AS n FROM outbox WHERE attempts = 0 AND parked IS NULL").await, 1);
    for n in 2..=4 {
        bed.server.as_mut().unwrap().start_again();
        bed.wait_for("thing", 1..n).await;
        bed.server.as_mut().unwrap().kill();
        bed.tell("thing").await;
    }
    bed.server.as_mut().unwrap().start_again();
    bed.wait_for("thing", 1..=4).await;
    bed.drained().await;
}

async fn consumers_that_come_and_go_take_each_event_once_and_in_order(database: TestDatabase) {
    let bed = Bed::by_nats(database).await;
    let _producer = bed.produce(&[]).await;
    for round in 0..4 {
        let replicas = [bed.consume().await, bed.consume().await];
        for n in 0..40 {
            bed.tell(&format!("thing-{}", n % 4)).await;
        }
        if round % 2 == 0 {
            bed.wait_for("thing-0", 1..=(round + 1) * 10).await;
        }
        for replica in replicas {
            replica.stop().await;
        }
    }
    let _last = bed.consume().await;
    for thing in 0..4 {
        bed.wait_for(&format!("thing-{thing}"), 1..=40).await;
    }
}

on_both_databases!(
    events_wait_for_a_nats_server_that_is_away,
    consumers_that_come_and_go_take_each_event_once_and_in_order,
);
