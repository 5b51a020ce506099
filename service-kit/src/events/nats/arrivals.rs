//! The transport of stored events from the stream to their handler.

use std::time::Instant;

use mesh_proto::shop::events::v1::Event;

use super::super::{
    inbox::{Failure, Inbox, MAX_BATCH_TIME},
    queue::{PendingEvent, decode_batch},
    relay::{Delivery, DeliveryStatus, Transport},
};

/// Enough for a batch of the largest events.
const MAX_BATCH_BYTES: usize = 16 * 1024 * 1024;

/// Takes stored events as a sink takes delivered ones. An event that fails blocks
/// those of its aggregate, and no others of its batch: where many fail, one
/// transaction settles the batch, and not one for each of them.
#[derive(Debug)]
pub(in super::super) struct ArrivalsTransport(pub(in super::super) Inbox);

#[tonic::async_trait]
impl Transport for ArrivalsTransport {
    async fn deliver(&mut self, waiting: &[PendingEvent]) -> Delivery {
        let mut remaining = match decode_batch(waiting, MAX_BATCH_BYTES) {
            Ok(events) => Remaining { indexes: (0..events.len()).collect(), events },
            Err(why) => return DeliveryStatus::Park(0, why).with_none_taken(),
        };
        let (began, mut refused) = (Instant::now(), Vec::new());
        let mut taken = Vec::with_capacity(waiting.len());
        let mut together = waiting.len();
        loop {
            let size = together.min(remaining.events.len());
            let progress = self.0.take(&remaining.events[..size]).await;
            taken.extend(remaining.indexes[..progress.taken].iter().map(|index| waiting[*index].position));
            remaining.drop_first(progress.taken);
            let status = match progress.failure {
                None => {
                    together = together.saturating_mul(2);
                    None
                }
                Some(Failure::Failed(why)) => {
                    // The next ones may fail too, and roll back those before them.
                    together = 1;
                    refused.push((remaining.indexes[0], why));
                    remaining.drop_aggregate(waiting);
                    None
                }
                // Earlier failures are settled first; this one occurs again.
                Some(_) if !refused.is_empty() => break,
                Some(Failure::Unavailable(why)) => Some(DeliveryStatus::Unavailable(why)),
                Some(Failure::Malformed(why)) => Some(DeliveryStatus::Park(remaining.indexes[0], why)),
            };
            if let Some(status) = status {
                return Delivery { taken, status };
            }
            if remaining.events.is_empty() || began.elapsed() > MAX_BATCH_TIME {
                break;
            }
        }
        let status =
            if refused.is_empty() { DeliveryStatus::Continue } else { DeliveryStatus::Failed(refused) };
        Delivery { taken, status }
    }
}

/// The remaining events of a batch, and their indexes in it.
struct Remaining {
    indexes: Vec<usize>,
    events: Vec<Event>,
}

impl Remaining {
    fn drop_first(&mut self, count: usize) {
        self.indexes.drain(..count);
        self.events.drain(..count);
    }

    /// Drops the first event and all others of its aggregate.
    fn drop_aggregate(&mut self, waiting: &[PendingEvent]) {
        let aggregate = |index: usize| waiting[index].aggregate.as_str();
        let dropped = aggregate(self.indexes[0]);
        let keep: Vec<bool> = self.indexes.iter().map(|index| aggregate(*index) != dropped).collect();
        let mut keep = keep.into_iter();
        self.events.retain(|_| keep.next().unwrap_or_default());
        self.indexes.retain(|index| aggregate(*index) != dropped);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mesh_proto::shop::events::v1::{ProductDeleted, event::Payload};
    use prost::Message;

    use super::*;
    use crate::{
        database::{Database, Error, Transaction},
        events::{HandleError, INBOX, Subscriber},
    };

    /// Fails for aggregates whose names begin with `bad`.
    struct FailsForBad;

    #[tonic::async_trait]
    impl Subscriber for FailsForBad {
        async fn handle(&self, _: &mut Transaction, event: &Event) -> Result<(), HandleError> {
            if event.aggregate_id.starts_with("bad") {
                return Err(Error::corrupt("thing", "it does not fit").into());
            }
            Ok(())
        }
    }

    fn waiting(aggregates: &[&str]) -> Vec<PendingEvent> {
        let one = |(position, aggregate): (i64, &&str)| {
            let payload = Payload::ProductDeleted(ProductDeleted { product_id: (*aggregate).to_owned() });
            let id = uuid::Uuid::now_v7().to_string();
            let event = Event {
                event_id: id.clone(),
                aggregate_id: (*aggregate).to_owned(),
                payload: (!aggregate.starts_with("odd")).then_some(payload),
                ..Event::default()
            };
            let aggregate = (*aggregate).to_owned();
            PendingEvent { position, id, aggregate, attempts: 0, event: event.encode_to_vec() }
        };
        (0..).zip(aggregates).map(one).collect()
    }

    /// Delivers events of these aggregates.
    async fn delivered(aggregates: &[&str]) -> Delivery {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("inbox.db").display()).parse().unwrap();
        let database = Database::open(&url, &INBOX).await.unwrap();
        let mut arrivals = ArrivalsTransport(Inbox::new(database, Arc::new(FailsForBad)));
        arrivals.deliver(&waiting(aggregates)).await
    }

    fn blamed(status: DeliveryStatus) -> Vec<usize> {
        let DeliveryStatus::Failed(refused) = status else { panic!("no event failed: {status:?}") };
        refused.into_iter().map(|(index, _)| index).collect()
    }

    #[tokio::test]
    async fn an_event_that_fails_blocks_its_aggregate_and_no_other() {
        let done = delivered(&["bad-1", "a", "bad-1", "b", "bad-2", "a", "bad-1", "b", "a"]).await;
        assert_eq!(done.taken, [1, 3, 5, 7, 8]);
        assert_eq!(blamed(done.status), [0, 4]);
    }

    #[tokio::test]
    async fn a_malformed_event_is_parked_after_those_before_it() {
        assert_eq!(
            delivered(&["a", "b"]).await,
            Delivery { taken: vec![0, 1], status: DeliveryStatus::Continue }
        );
        let done = delivered(&["a", "odd", "b"]).await;
        assert_eq!(done.taken, [0]);
        assert!(matches!(done.status, DeliveryStatus::Park(1, _)), "{:?}", done.status);
        let done = delivered(&["a", "bad", "b", "odd", "c"]).await;
        assert_eq!(done.taken, [0, 2]);
        assert_eq!(blamed(done.status), [1]);
    }
}
