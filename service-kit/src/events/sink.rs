//! Takes what relays deliver.

use std::sync::Arc;

use mesh_proto::shop::events::v1::{
    DeliverRequest, DeliverResponse, Event, event_sink_service_server::EventSinkService,
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
/// One of the events is not its caller's.
const NOT_SOURCE: &str = "NOT_SOURCE";
/// The most events of one call.
const MOST: usize = 100;

/// Serves `EventSinkService`: each event has its effect once, in the
/// transaction that remembers it. A service delivers its own events and no
/// other's.
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

    async fn deliver(&self, caller: &Caller, request: &DeliverRequest) -> Result<DeliverResponse, Fault> {
        let events = &request.events;
        if events.is_empty() || events.len() > MOST {
            return Err(invalid("events", format!("must be 1 to {MOST}")));
        }
        is_source(caller, events)?;
        let progress = self.inbox.take(events).await;
        match progress.stop {
            Some(stop) if progress.taken == 0 => Err(refusal(stop)),
            _ => Ok(DeliverResponse { taken: progress.taken.try_into().unwrap_or(i32::MAX) }),
        }
    }
}

/// Whether all of it is the caller's to tell: what product-service says of an
/// order, order-service has not said.
fn is_source(caller: &Caller, events: &[Event]) -> Result<(), Fault> {
    let is = match caller {
        Caller::Anyone => true,
        Caller::Service(name) => events.iter().all(|event| event.source == name.as_str()),
        Caller::Nobody | Caller::User { .. } => false,
    };
    let words = "a service delivers its own events; the `source` of one of these is another";
    if is { Ok(()) } else { Err(Fault::new(Code::PermissionDenied, NOT_SOURCE, words)) }
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
            Ok(caller) => Self::deliver(self, caller, request.get_ref()).await,
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
