//! What a NATS server can do to events.

use std::time::Duration;

use async_nats::jetstream::{self, consumer::PullConsumer};
use futures_util::StreamExt;
use secrecy::ExposeSecret;
use service_kit::{events::relay, on_both_databases, testing::TestDatabase};
use tokio::time::{sleep, timeout};

use super::bed::{Bed, CONSUMER, outbox, settings, until};

/// The consumer of a bed's follower, as anybody may use it; waits until there
/// is one, and a server.
async fn consumer(bed: &Bed) -> PullConsumer {
    let url = bed.server.as_ref().unwrap().url();
    let mut found = None;
    let there = until(async || {
        let Ok(client) = async_nats::connect(url.expose_secret()).await else { return false };
        let Ok(stream) = jetstream::new(client).get_stream("shop-events").await else { return false };
        found = stream.get_consumer(CONSUMER).await.ok();
        found.is_some()
    });
    assert!(there.await, "there is no consumer");
    found.unwrap()
}

async fn events_wait_for_a_nats_server_that_is_away(database: TestDatabase) {
    let mut bed = Bed::by_nats(database).await;
    bed.server.as_mut().unwrap().kill();
    // Services start without it.
    let consumer = bed.consume().await;
    let _producer = bed.produce(&[consumer.address]).await;
    bed.tell("thing").await;
    sleep(Duration::from_millis(300)).await;
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

async fn events_go_on_at_once_when_the_server_is_back(database: TestDatabase) {
    let mut bed = Bed::by_nats(database).await;
    bed.server.as_mut().unwrap().kill();
    let _consumer = bed.consume().await;
    let mut settings = settings();
    // Far longer than this test waits.
    settings.first = Duration::from_secs(600);
    settings.away = settings.first;
    let base = bed.base(&[]);
    let relaying = tokio::spawn(relay(outbox(&base), base, settings, std::future::pending()));
    bed.tell("thing").await;
    // Who has the lease has just seen that the server is away.
    assert!(until(async || bed.count("SELECT count(*) AS n FROM leases").await == 1).await);
    bed.server.as_mut().unwrap().start_again();
    bed.wait_for("thing", [1]).await;
    relaying.abort();
}

/// What was on its way to a follower when it lost its connection may be the
/// last for long, so it does not wait for another to tell that one is missing.
async fn a_follower_begins_anew_when_its_connection_was_lost(database: TestDatabase) {
    let mut bed = Bed::by_nats(database).await;
    let _replica = bed.consume().await;
    let first = consumer(&bed).await.cached_info().created;
    // It pulls.
    bed.tell("thing").await;
    let producer = bed.produce(&[]).await;
    bed.wait_for("thing", [1]).await;
    bed.server.as_mut().unwrap().start_again();
    assert!(until(async || consumer(&bed).await.cached_info().created != first).await);
    bed.tell("thing").await;
    bed.wait_for("thing", [1, 2]).await;
    drop(producer);
}

async fn the_last_message_is_missed_soon_when_it_was_lost_on_its_way(database: TestDatabase) {
    let bed = Bed::by_nats(database).await;
    let _replica = bed.consume().await;
    let _producer = bed.produce(&[]).await;
    // Takes from the follower what is then on its way to nobody.
    let thief = consumer(&bed).await;
    let mut stolen = thief.stream().messages().await.unwrap();
    let mut told = 0;
    loop {
        told += 1;
        bed.tell("thing").await;
        tokio::select! {
            message = stolen.next() => break drop(message.unwrap().unwrap()),
            taken = until(async || bed.journal("thing").await.len() == told) => assert!(taken),
        }
    }
    drop(stolen);
    let all = async {
        while bed.journal("thing").await.len() < told {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(Duration::from_secs(25), all).await.is_ok(), "it is still missing");
    bed.wait_for("thing", 1..=i64::try_from(told).unwrap()).await;
}

on_both_databases!(
    events_wait_for_a_nats_server_that_is_away,
    consumers_that_come_and_go_take_each_event_once_and_in_order,
    events_go_on_at_once_when_the_server_is_back,
    a_follower_begins_anew_when_its_connection_was_lost,
    the_last_message_is_missed_soon_when_it_was_lost_on_its_way,
);
