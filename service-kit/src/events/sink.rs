//! Takes what relays deliver.

use std::sync::Arc;

use mesh_proto::shop::events::v1::{
    DeliverRequest, DeliverResponse, event_sink_service_server::EventSinkService,
};
use tonic::{Code, Request, Response, Status, metadata::MetadataValue};

use super::{
    Subscriber,
    inbox::{Inbox, Stop},
};
use crate::{
    auth::Caller,
    database::Database,
    error::{Fault, invalid},
};

/// The first event could not be taken now; others may.
pub(super) const NOT_TAKEN: &str = "EVENT_NOT_TAKEN";
/// The first event is none that this version understands.
pub(super) const MALFORMED: &str = "EVENT_MALFORMED";
/// The most events of one call.
const MOST: usize = 100;

/// Serves `EventSinkService`: each event has its effect once, in the
/// transaction that remembers it.
#[derive(Clone, Debug)]
pub struct Sink {
    name: &'static str,
    inbox: Inbox,
}

impl Sink {
    /// The sink of the service `name`, whose schema has
    /// [`INBOX`](super::INBOX).
    #[must_use]
    pub fn new(name: &'static str, database: Database, subscriber: impl Subscriber) -> Self {
        Self::over(name, Inbox::new(database, Arc::new(subscriber)))
    }

    pub(super) fn over(name: &'static str, inbox: Inbox) -> Self {
        Self { name, inbox }
    }

    async fn deliver(&self, request: &DeliverRequest) -> Result<DeliverResponse, Fault> {
        let events = &request.events;
        if events.is_empty() || events.len() > MOST {
            return Err(invalid("events", format!("must be 1 to {MOST}")));
        }
        let progress = self.inbox.take(events).await;
        match progress.stop {
            Some(stop) if progress.taken == 0 => Err(refusal(stop)),
            _ => Ok(DeliverResponse { taken: progress.taken.try_into().unwrap_or(i32::MAX) }),
        }
    }
}

fn refusal(stop: Stop) -> Fault {
    match stop {
        Stop::Away(why) => {
            tracing::error!(cause = %why, "events are not taken: {why}");
            let words = "the database is not available right now; deliver again";
            Fault::new(Code::Unavailable, "DATABASE_UNAVAILABLE", words)
        }
        Stop::Again(why) => {
            tracing::warn!(cause = %why, "an event is not taken: {why}");
            let words = "the first event could not be taken; deliver it later, and others before";
            Fault::new(Code::Unavailable, NOT_TAKEN, words)
        }
        Stop::Malformed(why) => {
            let words = format!("the first event cannot be taken: {why}");
            Fault::new(Code::InvalidArgument, MALFORMED, words)
        }
    }
}

#[tonic::async_trait]
impl EventSinkService for Sink {
    async fn deliver(&self, request: Request<DeliverRequest>) -> Result<Response<DeliverResponse>, Status> {
        let done = match Caller::of(&request) {
            Ok(_) => Self::deliver(self, request.get_ref()).await,
            Err(fault) => Err(fault),
        };
        done.map(Response::new).map_err(|fault| {
            let mut status = fault.into_status(self.name);
            // The relay knows better than the channel when to try again.
            status.metadata_mut().insert("grpc-retry-pushback-ms", MetadataValue::from_static("-1"));
            status
        })
    }
}
