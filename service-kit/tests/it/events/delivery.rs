//! Every event has its effect once, in order, whatever is interrupted.

use std::time::Duration;

use mesh_proto::shop::events::v1::{
    DeliverRequest, Event, GetBacklogRequest, ProductDeleted, event::Payload,
    event_log_service_client::EventLogServiceClient, event_sink_service_client::EventSinkServiceClient,
};
use service_kit::{
    events::relay,
    on_both_databases,
    testing::{TestDatabase, mesh_to},
};
use tokio::{net::TcpListener, task::JoinSet};

use super::bed::{Bed, CONSUMER, change, outbox, over_every_transport, parked, settings, write_change};

async fn every_event_has_its_effect_once_and_in_order(bed: Bed) {
    let consumers = [bed.consume().await, bed.consume().await];
    let addresses = consumers.each_ref().map(|replica| replica.address);
    let _producers = [bed.produce(&addresses).await, bed.produce(&addresses).await];
    let mut changing = JoinSet::new();
    for writer in 0..4 {
        let context = bed.context(&addresses);
        changing.spawn(async move {
            for n in 0..48 {
                change(&context, &format!("thing-{}", (writer + n) % 8)).await;
            }
        });
    }
    changing.join_all().await;
    bed.drained().await;
    for thing in 0..8 {
        bed.wait_for(&format!("thing-{thing}"), 1..=24).await;
    }
}

async fn a_sink_that_fails_often_loses_and_doubles_nothing(bed: Bed) {
    let consumer = bed.consume().await;
    let _producer = bed.produce(&[consumer.address]).await;
    for n in 0..40 {
        bed.change(&format!("flaky-{}", n % 4)).await;
        bed.change("sound").await;
    }
    bed.drained().await;
    for thing in 0..4 {
        bed.wait_for(&format!("flaky-{thing}"), 1..=10).await;
    }
    bed.wait_for("sound", 1..=40).await;
    assert_eq!(parked(&consumer).await, []);
}

async fn relays_that_are_cut_off_anywhere_deliver_again_without_effect(bed: Bed) {
    let consumer = bed.consume().await;
    for n in 0..60 {
        bed.change(&format!("thing-{}", n % 3)).await;
    }
    let mut settings = settings();
    // Small batches and short leases: many places to be cut off at.
    settings.batch_size = 5;
    settings.lease = Duration::from_millis(30);
    settings.delivery_timeout = Duration::from_millis(500);
    for _ in 0..60 {
        let context = bed.context(&[consumer.address]);
        let relaying = relay(outbox(&context), context, settings, std::future::pending());
        let _ = tokio::time::timeout(Duration::from_millis(fastrand::u64(1..60)), relaying).await;
    }
    let context = bed.context(&[consumer.address]);
    let last = tokio::spawn(relay(outbox(&context), context, settings, std::future::pending()));
    bed.drained().await;
    for thing in 0..3 {
        bed.wait_for(&format!("thing-{thing}"), 1..=20).await;
    }
    last.abort();
}

async fn a_duplicate_has_no_effect(database: TestDatabase) {
    let bed = Bed::new(database).await;
    let consumer = bed.consume().await;
    let events: Vec<Event> = (1..=40)
        .map(|sequence| Event {
            event_id: uuid::Uuid::now_v7().to_string(),
            source: "test".to_owned(),
            aggregate_id: "thing".to_owned(),
            sequence,
            create_time: None,
            payload: Some(Payload::ProductDeleted(ProductDeleted { product_id: "thing".to_owned() })),
        })
        .collect();
    let mut delivering = JoinSet::new();
    for _ in 0..4 {
        let mut client = EventSinkServiceClient::new(mesh_to([consumer.address]).channel(CONSUMER));
        let request = DeliverRequest { events: events.clone() };
        delivering.spawn(async move { client.deliver(request).await.unwrap().into_inner().taken });
    }
    assert_eq!(delivering.join_all().await, [40; 4]);
    bed.wait_for("thing", 1..=40).await;
}

async fn events_wait_for_a_subscriber_that_is_down(database: TestDatabase) {
    let bed = Bed::new(database).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let producer = bed.produce(&[address]).await;
    for _ in 0..5 {
        bed.change("thing").await;
    }
    let mut log = EventLogServiceClient::new(mesh_to([producer.address]).channel("any"));
    let backlogs = log.get_backlog(GetBacklogRequest {}).await.unwrap().into_inner().backlogs;
    assert_eq!((backlogs[0].subscriber.as_str(), backlogs[0].waiting, backlogs[0].parked), (CONSUMER, 5, 0));
    assert!(backlogs[0].oldest_time.is_some());
    // Down for far longer than the attempts of an event would last.
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(bed.count("SELECT count(*) AS n FROM outbox WHERE attempts = 0 AND parked IS NULL").await, 5);

    let _consumer = bed.consume_at(TcpListener::bind(address).await.unwrap()).await;
    bed.wait_for("thing", 1..=5).await;
    bed.drained().await;
    let backlogs = log.get_backlog(GetBacklogRequest {}).await.unwrap().into_inner().backlogs;
    assert_eq!((backlogs.len(), backlogs[0].waiting), (1, 0));
}

async fn a_relay_that_stops_hands_over_at_once(database: TestDatabase) {
    let bed = Bed::new(database).await;
    let consumer = bed.consume().await;
    let mut settings = settings();
    settings.lease = Duration::from_secs(60);
    let begin = |bed: &Bed| {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let context = bed.context(&[consumer.address]);
        let stopped = async { drop(stopped.await) };
        (stop, tokio::spawn(relay(outbox(&context), context, settings, stopped)))
    };
    let (stop, first) = begin(&bed);
    bed.change("thing").await;
    bed.wait_for("thing", [1]).await;
    bed.drained().await;
    drop(stop);
    first.await.unwrap();
    let (_stop, second) = begin(&bed);
    bed.change("thing").await;
    bed.wait_for("thing", [1, 2]).await;
    second.abort();
}

async fn a_replica_that_stops_releases_its_leases(bed: Bed) {
    let consumer = bed.consume().await;
    let producer = bed.produce(&[consumer.address]).await;
    bed.change("thing").await;
    bed.wait_for("thing", [1]).await;
    bed.drained().await;
    consumer.stop().await;
    producer.stop().await;
    for database in [&bed.producer, &bed.consumer] {
        let held = database.rows("SELECT name FROM leases WHERE until > 0", &[]).await.unwrap();
        let held: Vec<String> = held.iter().map(|row| row.get("name").unwrap()).collect();
        assert!(held.is_empty(), "{held:?}");
    }
}

async fn a_lease_whose_holder_froze_passes_on(database: TestDatabase) {
    let bed = Bed::new(database).await;
    let consumer = bed.consume().await;
    // A relay that took the lease, and froze before its first delivery.
    let leases = service_kit::lease::Leases::new(bed.producer.clone());
    let name = format!("relay/{CONSUMER}");
    let frozen = leases.take(&name, Duration::from_millis(600)).await.unwrap().unwrap();
    let _producer = bed.produce(&[consumer.address]).await;
    bed.change("thing").await;
    bed.wait_for("thing", [1]).await;
    let mut open = bed.producer.begin().await.unwrap();
    assert!(frozen.fence(&mut open, Duration::from_secs(1)).await.is_err());
}

async fn an_event_that_is_committed_late_is_not_skipped(bed: Bed) {
    let consumer = bed.consume().await;
    let _producer = bed.produce(&[consumer.address]).await;
    let context = bed.context(&[]);
    let mut late = bed.producer.begin().await.unwrap();
    write_change(&mut late, &outbox(&context), "late").await.unwrap();
    bed.change("early").await;
    bed.wait_for("early", [1]).await;
    bed.drained().await;
    assert!(bed.journal("late").await.is_empty());
    late.commit().await.unwrap();
    bed.wait_for("late", [1]).await;
}

/// On PostgreSQL the row that was written first may be committed last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_committed_late_is_not_skipped_over_mesh() {
    let database = TestDatabase::postgres().await;
    an_event_that_is_committed_late_is_not_skipped(Bed::new(database).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_committed_late_is_not_skipped_over_nats() {
    let database = TestDatabase::postgres().await;
    an_event_that_is_committed_late_is_not_skipped(Bed::over_nats(database).await).await;
}

over_every_transport!(
    every_event_has_its_effect_once_and_in_order,
    a_sink_that_fails_often_loses_and_doubles_nothing,
    relays_that_are_cut_off_anywhere_deliver_again_without_effect,
    a_replica_that_stops_releases_its_leases,
);

on_both_databases!(
    a_duplicate_has_no_effect,
    events_wait_for_a_subscriber_that_is_down,
    a_relay_that_stops_hands_over_at_once,
    a_lease_whose_holder_froze_passes_on,
);
