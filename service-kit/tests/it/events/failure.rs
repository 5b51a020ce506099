//! Events that cannot be taken stand in no other's way.

use mesh_proto::shop::events::v1::{Event, ParkedEvent};
use prost::Message;
use tonic::Code;

use super::bed::{Bed, CONSUMER, by_every_way, parked, retry, until};

fn sequences(parked: &[ParkedEvent]) -> Vec<i64> {
    parked.iter().map(|parked| parked.event.as_ref().unwrap().sequence).collect()
}

async fn poison_is_set_aside_shown_and_retried(bed: Bed) {
    let consumer = bed.consume().await;
    let _producer = bed.produce(&[consumer.address]).await;
    for _ in 0..4 {
        bed.tell("poison").await;
        bed.tell("sound").await;
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
    bed.mend("poison").await;
    retry(&consumer, &shown[0]).await.unwrap();
    bed.wait_for("poison", [1, 3, 4, 2]).await;
    assert_eq!(parked(&consumer).await, []);
    assert_eq!(retry(&consumer, &shown[0]).await.unwrap_err().code(), Code::NotFound);
}

/// Fails however often it is tried; `name` says how.
async fn gives_up_on(bed: &Bed, name: &str) {
    let consumer = bed.consume().await;
    let producer = bed.produce(&[consumer.address]).await;
    let keeper = bed.keeper(&producer, &consumer);
    for _ in 0..4 {
        bed.tell(name).await;
        bed.tell("sound").await;
    }
    bed.wait_for("sound", 1..=4).await;
    // Those behind it wait until it is set aside.
    assert!(until(async || !parked(keeper).await.is_empty()).await);
    bed.wait_for(name, [1, 3, 4]).await;
    let shown = parked(keeper).await;
    assert_eq!((sequences(&shown), shown[0].attempts), (vec![2], 20));
    assert_eq!(shown[0].subscriber, CONSUMER);
    assert!(!shown[0].reason.is_empty());

    bed.mend(name).await;
    retry(keeper, &shown[0]).await.unwrap();
    bed.wait_for(name, [1, 3, 4, 2]).await;
    bed.drained().await;
    assert_eq!(parked(keeper).await, []);
    assert_eq!(retry(keeper, &shown[0]).await.unwrap_err().code(), Code::NotFound);
}

async fn what_fails_too_often_is_set_aside_and_its_aggregate_goes_on(bed: Bed) {
    gives_up_on(&bed, "stuck").await;
}

async fn a_subscriber_that_panics_stops_nothing(bed: Bed) {
    gives_up_on(&bed, "panicking").await;
}

async fn those_behind_one_that_fails_wait_for_it(bed: Bed) {
    let consumer = bed.consume().await;
    let _producer = bed.produce(&[consumer.address]).await;
    for _ in 0..3 {
        bed.tell("stuck").await;
    }
    bed.wait_for("stuck", [1]).await;
    bed.mend("stuck").await;
    bed.wait_for("stuck", 1..=3).await;
}

/// Puts bytes into the outbox that nobody would write.
async fn smuggle(bed: &Bed, id: &str, bytes: Vec<u8>) {
    const WRITE: &str = "INSERT INTO outbox (subscriber, event_id, aggregate_id, sequence, event, create_time) \
         VALUES ($1, $2, 'smuggled', 1, $3, 1)";
    let mut open = bed.producer.begin().await.unwrap();
    open.execute(WRITE, &[bed.addressee().into(), id.into(), bytes.into()]).await.unwrap();
    open.commit().await.unwrap();
}

async fn what_is_no_event_is_set_aside_at_once(bed: Bed) {
    let consumer = bed.consume().await;
    let id = uuid::Uuid::now_v7().to_string();
    let newer = Event { event_id: id.clone(), sequence: 7, ..Event::default() };
    bed.tell("sound").await;
    smuggle(&bed, "garbage", vec![0xff; 40]).await;
    smuggle(&bed, &id, newer.encode_to_vec()).await;
    smuggle(&bed, "nameless", Event::default().encode_to_vec()).await;
    bed.tell("sound").await;
    let producer = bed.produce(&[consumer.address]).await;
    bed.wait_for("sound", [1, 2]).await;
    bed.drained().await;
    let keeper = bed.keeper(&producer, &consumer);
    assert!(until(async || parked(keeper).await.len() == 3).await);
    let shown = parked(keeper).await;
    let said = |part: &str| shown.iter().any(|parked| parked.reason.contains(part) && parked.attempts == 1);
    assert!(said("none that this version knows") && said("not a UUID"), "{shown:?}");
}

by_every_way!(
    poison_is_set_aside_shown_and_retried,
    what_fails_too_often_is_set_aside_and_its_aggregate_goes_on,
    a_subscriber_that_panics_stops_nothing,
    those_behind_one_that_fails_wait_for_it,
    what_is_no_event_is_set_aside_at_once,
);
