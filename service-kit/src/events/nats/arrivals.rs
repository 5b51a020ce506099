//! From what the stream brought to its effect.

use std::time::Instant;

use mesh_proto::shop::events::v1::Event;

use super::super::{
    inbox::{ANSWER_AFTER, Inbox, Stop},
    queue::{Waiting, decoded},
    relay::{Delivered, Then, Transport},
};

/// Room for a batch of the largest events.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// Takes what was written down, as a sink takes what it is sent. One that cannot
/// be taken holds up those of its aggregate, and no others of its batch: where
/// many are refused, it is a settlement for each batch and not for each of them.
#[derive(Debug)]
pub(in super::super) struct Arrivals(pub(in super::super) Inbox);

#[tonic::async_trait]
impl Transport for Arrivals {
    async fn deliver(&mut self, waiting: &[Waiting]) -> Delivered {
        let mut left = match decoded(waiting, BYTES_MAX) {
            Ok(events) => Left { places: (0..events.len()).collect(), events },
            Err(why) => return Then::Park(0, why).alone(),
        };
        let (began, mut refused) = (Instant::now(), Vec::new());
        let mut taken = Vec::with_capacity(waiting.len());
        let mut together = waiting.len();
        loop {
            let size = together.min(left.events.len());
            let progress = self.0.take(&left.events[..size]).await;
            taken.extend(left.places[..progress.taken].iter().map(|place| waiting[*place].position));
            left.drop_first(progress.taken);
            let then = match progress.stop {
                None => {
                    together = together.saturating_mul(2);
                    None
                }
                Some(Stop::Again(why)) => {
                    // Its neighbours may be as bad, and what is undone was in vain.
                    together = 1;
                    refused.push((left.places[0], why));
                    left.drop_aggregate(waiting);
                    None
                }
                // Those that were refused are settled first; it is met again.
                Some(_) if !refused.is_empty() => break,
                Some(Stop::Away(why)) => Some(Then::Away(why)),
                Some(Stop::Malformed(why)) => Some(Then::Park(left.places[0], why)),
            };
            if let Some(then) = then {
                return Delivered { taken, then };
            }
            if left.events.is_empty() || began.elapsed() > ANSWER_AFTER {
                break;
            }
        }
        let then = if refused.is_empty() { Then::Go } else { Then::Blame(refused) };
        Delivered { taken, then }
    }
}

/// Events of a batch that were not tried yet, and their places in it.
struct Left {
    places: Vec<usize>,
    events: Vec<Event>,
}

impl Left {
    fn drop_first(&mut self, count: usize) {
        self.places.drain(..count);
        self.events.drain(..count);
    }

    /// Drops the first and all of its aggregate.
    fn drop_aggregate(&mut self, waiting: &[Waiting]) {
        let of = |place: usize| waiting[place].aggregate.as_str();
        let gone = of(self.places[0]);
        let mut stay = self.places.iter().map(|place| of(*place) != gone).collect::<Vec<_>>().into_iter();
        self.events.retain(|_| stay.next().unwrap_or_default());
        self.places.retain(|place| of(*place) != gone);
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
        events::{INBOX, Subscriber, Untaken},
    };

    /// Refuses what is about `bad` things, and does not know `odd` ones.
    struct Choosy;

    #[tonic::async_trait]
    impl Subscriber for Choosy {
        async fn take(&self, _: &mut Transaction, event: &Event) -> Result<(), Untaken> {
            if event.aggregate_id.starts_with("bad") {
                return Err(Error::corrupt("thing", "it does not fit").into());
            }
            Ok(())
        }
    }

    fn waiting(aggregates: &[&str]) -> Vec<Waiting> {
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
            Waiting { position, id, aggregate, attempts: 0, event: event.encode_to_vec() }
        };
        (0..).zip(aggregates).map(one).collect()
    }

    /// What became of events of these aggregates: the positions that were taken,
    /// and then.
    async fn delivered(aggregates: &[&str]) -> Delivered {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("inbox.db").display()).parse().unwrap();
        let database = Database::open(&url, &INBOX).await.unwrap();
        let mut arrivals = Arrivals(Inbox::new(database, Arc::new(Choosy)));
        arrivals.deliver(&waiting(aggregates)).await
    }

    fn blamed(then: Then) -> Vec<usize> {
        let Then::Blame(refused) = then else { panic!("nobody is to blame: {then:?}") };
        refused.into_iter().map(|(place, _)| place).collect()
    }

    #[tokio::test]
    async fn what_is_refused_holds_up_its_aggregate_and_no_other() {
        let done = delivered(&["bad-1", "a", "bad-1", "b", "bad-2", "a", "bad-1", "b", "a"]).await;
        assert_eq!(done.taken, [1, 3, 5, 7, 8]);
        assert_eq!(blamed(done.then), [0, 4]);
    }

    #[tokio::test]
    async fn what_is_no_event_is_set_aside_after_those_before_it() {
        assert_eq!(delivered(&["a", "b"]).await, Delivered { taken: vec![0, 1], then: Then::Go });
        let done = delivered(&["a", "odd", "b"]).await;
        assert_eq!(done.taken, [0]);
        assert!(matches!(done.then, Then::Park(1, _)), "{:?}", done.then);
        let done = delivered(&["a", "bad", "b", "odd", "c"]).await;
        assert_eq!(done.taken, [0, 2]);
        assert_eq!(blamed(done.then), [1]);
    }
}
