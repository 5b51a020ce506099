//! The sink, which takes the events that relays deliver.

use std::sync::Arc;

use mesh_proto::shop::events::v1::{
    DeliverRequest, DeliverResponse, Event, event_sink_service_server::EventSinkService,
};
use tonic::{Code, Request, Response, Status, metadata::MetadataValue};

use super::{
    Subscriber,
    inbox::{Failure, Inbox},
};
use crate::{
    auth::Caller,
    database::Database,
    error::{Fault, invalid},
};

/// The first event cannot be taken now; others may.
pub(super) const NOT_TAKEN: &str = "EVENT_NOT_TAKEN";
/// This version does not understand the first event.
pub(super) const MALFORMED: &str = "EVENT_MALFORMED";
/// The caller is not the source of one of the events.
const NOT_SOURCE: &str = "NOT_SOURCE";
const MAX_EVENTS: usize = 100;

/// The server of `EventSinkService`: each event has its effect once, in the
/// transaction that records it. A service may deliver only its own events.
#[derive(Clone, Debug)]
pub struct Sink {
    name: &'static str,
    inbox: Inbox,
}

impl Sink {
    /// Makes the sink of the service `name`, whose schema has
    /// [`INBOX`](super::INBOX).
    #[must_use]
    pub fn new(name: &'static str, database: Database, subscriber: impl Subscriber) -> Self {
        Self::with_inbox(name, Inbox::new(database, Arc::new(subscriber)))
    }

    pub(super) fn with_inbox(name: &'static str, inbox: Inbox) -> Self {
        Self { name, inbox }
    }

    async fn deliver(&self, caller: &Caller, request: &DeliverRequest) -> Result<DeliverResponse, Fault> {
        let events = &request.events;
        if events.is_empty() || events.len() > MAX_EVENTS {
            return Err(invalid("events", format!("must be 1 to {MAX_EVENTS}")));
        }
        check_source(caller, events)?;
        let progress = self.inbox.take(events).await;
        match progress.failure {
            Some(failure) if progress.taken == 0 => Err(to_fault(failure)),
            _ => Ok(DeliverResponse { taken: progress.taken.try_into().unwrap_or(i32::MAX) }),
        }
    }
}

/// Checks that the caller is the source of all events.
fn check_source(caller: &Caller, events: &[Event]) -> Result<(), Fault> {
    let is_source = match caller {
        Caller::Unrestricted => true,
        Caller::Service(name) => events.iter().all(|event| event.source == name.as_str()),
        Caller::Anonymous | Caller::User { .. } => false,
    };
    let words = "a service may deliver only its own events; the `source` of one of these is another service";
    if is_source { Ok(()) } else { Err(Fault::new(Code::PermissionDenied, NOT_SOURCE, words)) }
}

fn to_fault(failure: Failure) -> Fault {
    match failure {
        Failure::Unavailable(why) => {
            tracing::error!(cause = %why, "failed to take events: {why}");
            let words = "the database is not available right now; deliver again";
            Fault::new(Code::Unavailable, "DATABASE_UNAVAILABLE", words)
        }
        Failure::Failed(why) => {
            tracing::warn!(cause = %why, "failed to take an event: {why}");
            let words =
                "the first event could not be taken; deliver it later, and other aggregates' events before";
            Fault::new(Code::Unavailable, NOT_TAKEN, words)
        }
        Failure::Malformed(why) => {
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
            // The relay schedules retries, not the channel.
            status.metadata_mut().insert("grpc-retry-pushback-ms", MetadataValue::from_static("-1"));
            status
        })
    }
}
