//! Failures of the NATS server.

use std::time::Duration;

use async_nats::jetstream::{self, consumer::PullConsumer};
use futures_util::StreamExt;
use secrecy::ExposeSecret;
use service_kit::{events::relay, on_both_databases, testing::TestDatabase};
use tokio::time::{sleep, timeout};

use super::bed::{Bed, CONSUMER, outbox, settings, until};

/// The consumer of a bed; waits until there
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

async fn events_wait_for_a_nats_server_that_is_down(database: TestDatabase) {
    let mut bed = Bed::over_nats(database).await;
    bed.server.as_mut().unwrap().kill();
    // Services start without it.
    let consumer = bed.consume().await;
    let _producer = bed.produce(&[consumer.address]).await;
    bed.change("thing").await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(bed.count("SELECT count(*) AS n FROM outbox WHERE attempts = 0 AND parked IS NULL").await, 1);
    for n in 2..=4 {
        bed.server.as_mut().unwrap().start_again();
        bed.wait_for("thing", 1..n).await;
        bed.server.as_mut().unwrap().kill();
        bed.change("thing").await;
    }
    bed.server.as_mut().unwrap().start_again();
    bed.wait_for("thing", 1..=4).await;
    bed.drained().await;
}

async fn consumers_that_come_and_go_take_each_event_once_and_in_order(database: TestDatabase) {
    let bed = Bed::over_nats(database).await;
    let _producer = bed.produce(&[]).await;
    for round in 0..4 {
        let replicas = [bed.consume().await, bed.consume().await];
        for n in 0..40 {
            bed.change(&format!("thing-{}", n % 4)).await;
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

async fn events_continue_at_once_when_the_server_is_back(database: TestDatabase) {
    let mut bed = Bed::over_nats(database).await;
    bed.server.as_mut().unwrap().kill();
    let _consumer = bed.consume().await;
    let mut settings = settings();
    // Far longer than this test waits.
    settings.initial_backoff = Duration::from_secs(600);
    settings.max_unavailable_backoff = settings.initial_backoff;
    let context = bed.context(&[]);
    let relaying = tokio::spawn(relay(outbox(&context), context, settings, std::future::pending()));
    bed.change("thing").await;
    // the holder of the lease has just seen that the server is down.
    assert!(until(async || bed.count("SELECT count(*) AS n FROM leases").await == 1).await);
    bed.server.as_mut().unwrap().start_again();
    bed.wait_for("thing", [1]).await;
    relaying.abort();
}

/// A message in flight to a consumer that loses its connection may be the
/// last for long, so it does not wait for a later message to reveal the gap.
async fn a_consumer_is_recreated_when_its_connection_was_lost(database: TestDatabase) {
    let mut bed = Bed::over_nats(database).await;
    let _replica = bed.consume().await;
    let first = consumer(&bed).await.cached_info().created;
    // It pulls.
    bed.change("thing").await;
    let producer = bed.produce(&[]).await;
    bed.wait_for("thing", [1]).await;
    bed.server.as_mut().unwrap().start_again();
    assert!(until(async || consumer(&bed).await.cached_info().created != first).await);
    bed.change("thing").await;
    bed.wait_for("thing", [1, 2]).await;
    drop(producer);
}

async fn the_last_message_is_redelivered_soon_when_it_was_lost(database: TestDatabase) {
    let bed = Bed::over_nats(database).await;
    let _replica = bed.consume().await;
    let _producer = bed.produce(&[]).await;
    // Takes a message from the consumer, and loses it.
    let thief = consumer(&bed).await;
    let mut stolen = thief.stream().messages().await.unwrap();
    let mut sent = 0;
    loop {
        sent += 1;
        bed.change("thing").await;
        tokio::select! {
            message = stolen.next() => break drop(message.unwrap().unwrap()),
            taken = until(async || bed.journal("thing").await.len() == sent) => assert!(taken),
        }
    }
    drop(stolen);
    let all = async {
        while bed.journal("thing").await.len() < sent {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(Duration::from_secs(25), all).await.is_ok(), "it is still missing");
    bed.wait_for("thing", 1..=i64::try_from(sent).unwrap()).await;
}

on_both_databases!(
    events_wait_for_a_nats_server_that_is_down,
    consumers_that_come_and_go_take_each_event_once_and_in_order,
    events_continue_at_once_when_the_server_is_back,
    a_consumer_is_recreated_when_its_connection_was_lost,
    the_last_message_is_redelivered_soon_when_it_was_lost,
);
