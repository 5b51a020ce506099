//! The transport of events over the mesh.

use std::time::Duration;

use mesh_proto::shop::events::v1::{DeliverRequest, event_sink_service_client::EventSinkServiceClient};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use super::{
    queue::{PendingEvent, decode_batch},
    relay::{Delivery, DeliveryStatus, Transport},
    sink::{MALFORMED, NOT_TAKEN},
};
use crate::{auth::Outgoing, service::ServiceContext};

/// The maximum size of a request in bytes, a quarter of a server's limit; a
/// single event may be larger.
const MAX_REQUEST_BYTES: usize = 1024 * 1024;

/// The client of a subscriber's sink.
#[derive(Debug)]
pub(super) struct SinkTransport {
    client: EventSinkServiceClient<Outgoing>,
    deadline: Duration,
}

impl SinkTransport {
    pub(super) fn new(context: &ServiceContext, subscriber: &str, deadline: Duration) -> Self {
        let channel = context.auth.client(context.mesh.channel(subscriber));
        Self { client: EventSinkServiceClient::new(channel), deadline }
    }
}

#[tonic::async_trait]
impl Transport for SinkTransport {
    async fn deliver(&mut self, waiting: &[PendingEvent]) -> Delivery {
        let events = match decode_batch(waiting, MAX_REQUEST_BYTES) {
            Ok(events) => events,
            Err(why) => return DeliveryStatus::Park(0, why).with_none_taken(),
        };
        let sent = events.len();
        let mut request = Request::new(DeliverRequest { events });
        request.set_timeout(self.deadline);
        // A backstop, in case the channel does not enforce the deadline.
        let response = tokio::time::timeout(self.deadline * 2, self.client.deliver(request)).await;
        match response {
            Err(_) => DeliveryStatus::Unavailable("its sink timed out".to_owned()).with_none_taken(),
            Ok(Err(status)) => failed(&status).with_none_taken(),
            Ok(Ok(response)) => {
                let taken = usize::try_from(response.into_inner().taken).unwrap_or_default().min(sent);
                if taken == 0 {
                    let why = "its sink took no event and returned no error".to_owned();
                    return DeliveryStatus::Unavailable(why).with_none_taken();
                }
                Delivery {
                    taken: waiting[..taken].iter().map(|one| one.position).collect(),
                    status: DeliveryStatus::Continue,
                }
            }
        }
    }
}

/// The delivery status of an error.
fn failed(status: &Status) -> DeliveryStatus {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.as_str());
    let words = format!("{:?}: {}", status.code(), status.message());
    match (reason, status.code()) {
        (Some(NOT_TAKEN), _) => DeliveryStatus::Failed(vec![(0, words)]),
        (Some(MALFORMED), _) => DeliveryStatus::Park(0, words),
        (
            _,
            Code::Internal
            | Code::Unknown
            | Code::InvalidArgument
            | Code::OutOfRange
            | Code::ResourceExhausted
            | Code::DataLoss
            | Code::FailedPrecondition,
        ) => DeliveryStatus::FailedBatch(words),
        _ => DeliveryStatus::Unavailable(words),
    }
}
