//! The sources that a sink accepts.

use mesh_proto::shop::events::v1::{
    DeliverRequest, Event, ProductDeleted, event::Payload, event_sink_service_client::EventSinkServiceClient,
};
use service_kit::{
    on_both_databases,
    testing::{Callers, TestDatabase, mesh_to, refused},
};
use tonic::{Code, Status};

use super::bed::{Bed, CONSUMER, PRODUCER};

fn event(source: &str) -> Event {
    Event {
        event_id: uuid::Uuid::now_v7().to_string(),
        source: source.to_owned(),
        aggregate_id: "thing".to_owned(),
        sequence: 1,
        create_time: None,
        payload: Some(Payload::ProductDeleted(ProductDeleted { product_id: "thing".to_owned() })),
    }
}

async fn a_service_delivers_its_own_events_and_no_others(database: TestDatabase) {
    let callers = Callers::new();
    let bed = Bed::new(database).await.authenticated(&callers);
    let consumer = bed.consume().await;
    let channel = mesh_to([consumer.address]).channel(CONSUMER);
    let deliver = async |caller: &'static str, sources: &[&str]| -> Result<i32, Status> {
        let through = callers.auth(caller).client(channel.clone());
        let request = DeliverRequest { events: sources.iter().map(|source| event(source)).collect() };
        Ok(EventSinkServiceClient::new(through).deliver(request).await?.into_inner().taken)
    };
    for sources in [&["other"][..], &[PRODUCER, "other", PRODUCER], &[""], &["Producer"]] {
        refused(CONSUMER, deliver(PRODUCER, sources).await, Code::PermissionDenied, "NOT_SOURCE");
    }
    refused(CONSUMER, deliver("other", &[PRODUCER]).await, Code::PermissionDenied, "NOT_SOURCE");
    assert_eq!(bed.journal("thing").await, [0_i64; 0], "something was taken");

    assert_eq!(deliver(PRODUCER, &[PRODUCER, PRODUCER]).await.unwrap(), 2);
    assert_eq!(bed.journal("thing").await, [1, 1]);
}

async fn a_relay_is_the_source_of_what_it_delivers(database: TestDatabase) {
    let bed = Bed::new(database).await.authenticated(&Callers::new());
    let consumer = bed.consume().await;
    let _producer = bed.produce(&[consumer.address]).await;
    bed.change("thing").await;
    bed.wait_for("thing", [1]).await;
    bed.drained().await;
}

on_both_databases!(
    a_service_delivers_its_own_events_and_no_others,
    a_relay_is_the_source_of_what_it_delivers,
);
