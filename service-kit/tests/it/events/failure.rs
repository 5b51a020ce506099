//! Events that fail do not block others.

use mesh_proto::shop::events::v1::{Event, ParkedEvent};
use prost::Message;
use tonic::Code;

use super::bed::{Bed, CONSUMER, over_every_transport, parked, retry, until};

fn sequences(parked: &[ParkedEvent]) -> Vec<i64> {
    parked.iter().map(|parked| parked.event.as_ref().unwrap().sequence).collect()
}

async fn a_poison_event_is_parked_listed_and_retried(bed: Bed) {
    let consumer = bed.consume().await;
    let _producer = bed.produce(&[consumer.address]).await;
    for _ in 0..4 {
        bed.change("poison").await;
        bed.change("sound").await;
    }
    bed.drained().await;
    bed.wait_for("poison", [1, 3, 4]).await;
    bed.wait_for("sound", 1..=4).await;

    let shown = parked(&consumer).await;
    assert_eq!(sequences(&shown), [2]);
    assert_eq!((shown[0].subscriber.as_str(), shown[0].attempts), (CONSUMER, 1));
    assert_eq!(shown[0].reason, "its second event is poison");

    assert_eq!(retry(&consumer, &shown[0]).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(parked(&consumer).await[0].attempts, 2);
    bed.repair("poison").await;
    retry(&consumer, &shown[0]).await.unwrap();
    bed.wait_for("poison", [1, 3, 4, 2]).await;
    assert_eq!(parked(&consumer).await, []);
    assert_eq!(retry(&consumer, &shown[0]).await.unwrap_err().code(), Code::NotFound);
}

/// Sends an event that always fails; `name` selects how.
async fn is_parked_after_retries(bed: &Bed, name: &str) {
    let consumer = bed.consume().await;
    let producer = bed.produce(&[consumer.address]).await;
    let parking_replica = bed.parking_replica(&producer, &consumer);
    for _ in 0..4 {
        bed.change(name).await;
        bed.change("sound").await;
    }
    bed.wait_for("sound", 1..=4).await;
    // The events behind it wait until it is parked.
    assert!(until(async || !parked(parking_replica).await.is_empty()).await);
    bed.wait_for(name, [1, 3, 4]).await;
    let shown = parked(parking_replica).await;
    assert_eq!((sequences(&shown), shown[0].attempts), (vec![2], 20));
    assert_eq!(shown[0].subscriber, CONSUMER);
    assert!(!shown[0].reason.is_empty());

    bed.repair(name).await;
    retry(parking_replica, &shown[0]).await.unwrap();
    bed.wait_for(name, [1, 3, 4, 2]).await;
    bed.drained().await;
    assert_eq!(parked(parking_replica).await, []);
    assert_eq!(retry(parking_replica, &shown[0]).await.unwrap_err().code(), Code::NotFound);
}

async fn an_event_that_fails_too_often_is_parked_and_its_aggregate_continues(bed: Bed) {
    is_parked_after_retries(&bed, "stuck").await;
}

async fn a_subscriber_that_panics_stops_nothing(bed: Bed) {
    is_parked_after_retries(&bed, "panicking").await;
}

async fn events_behind_one_that_fails_wait_for_it(bed: Bed) {
    let consumer = bed.consume().await;
    let _producer = bed.produce(&[consumer.address]).await;
    for _ in 0..3 {
        bed.change("stuck").await;
    }
    bed.wait_for("stuck", [1]).await;
    bed.repair("stuck").await;
    bed.wait_for("stuck", 1..=3).await;
}

/// Inserts bytes into the outbox that no service would write.
async fn smuggle(bed: &Bed, id: &str, bytes: Vec<u8>) {
    const WRITE: &str = "INSERT INTO outbox (subscriber, event_id, aggregate_id, sequence, event, create_time) \
         VALUES ($1, $2, 'smuggled', 1, $3, 1)";
    let mut open = bed.producer.begin().await.unwrap();
    open.execute(WRITE, &[bed.subscriber().into(), id.into(), bytes.into()]).await.unwrap();
    open.commit().await.unwrap();
}

async fn a_malformed_event_is_parked_at_once(bed: Bed) {
    let consumer = bed.consume().await;
    let id = uuid::Uuid::now_v7().to_string();
    let newer = Event { event_id: id.clone(), sequence: 7, ..Event::default() };
    bed.change("sound").await;
    smuggle(&bed, "garbage", vec![0xff; 40]).await;
    smuggle(&bed, &id, newer.encode_to_vec()).await;
    smuggle(&bed, "nameless", Event::default().encode_to_vec()).await;
    bed.change("sound").await;
    let producer = bed.produce(&[consumer.address]).await;
    bed.wait_for("sound", [1, 2]).await;
    bed.drained().await;
    let parking_replica = bed.parking_replica(&producer, &consumer);
    assert!(until(async || parked(parking_replica).await.len() == 3).await);
    let shown = parked(parking_replica).await;
    let has_reason =
        |part: &str| shown.iter().any(|parked| parked.reason.contains(part) && parked.attempts == 1);
    assert!(has_reason("this version does not know") && has_reason("not a UUID"), "{shown:?}");
}

over_every_transport!(
    a_poison_event_is_parked_listed_and_retried,
    an_event_that_fails_too_often_is_parked_and_its_aggregate_continues,
    a_subscriber_that_panics_stops_nothing,
    events_behind_one_that_fails_wait_for_it,
    a_malformed_event_is_parked_at_once,
);
