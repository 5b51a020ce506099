//! Events over the mesh itself.

use std::time::Duration;

use mesh_proto::shop::events::v1::{DeliverRequest, event_sink_service_client::EventSinkServiceClient};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use super::{
    queue::{Waiting, decoded},
    relay::{Delivered, Then, Transport},
    sink::{MALFORMED, NOT_TAKEN},
};
use crate::{auth::Outgoing, service::Base};

/// The most bytes of one request, which is a quarter of what a server reads;
/// one event may be larger.
const BYTES_MAX: usize = 1024 * 1024;

/// Calls a subscriber's sink.
#[derive(Debug)]
pub(super) struct ToSink {
    client: EventSinkServiceClient<Outgoing>,
    deadline: Duration,
}

impl ToSink {
    pub(super) fn new(base: &Base, subscriber: &str, deadline: Duration) -> Self {
        let channel = base.auth.client(base.mesh.channel(subscriber));
        Self { client: EventSinkServiceClient::new(channel), deadline }
    }
}

#[tonic::async_trait]
impl Transport for ToSink {
    async fn deliver(&mut self, waiting: &[Waiting]) -> Delivered {
        let events = match decoded(waiting, BYTES_MAX) {
            Ok(events) => events,
            Err(why) => return Then::Park(0, why).alone(),
        };
        let sent = events.len();
        let mut request = Request::new(DeliverRequest { events });
        request.set_timeout(self.deadline);
        // Should the channel not hold the deadline, it is held here.
        let answer = tokio::time::timeout(self.deadline * 2, self.client.deliver(request)).await;
        match answer {
            Err(_) => Then::Away("it did not answer in time".to_owned()).alone(),
            Ok(Err(status)) => failed(&status).alone(),
            Ok(Ok(answer)) => {
                let taken = usize::try_from(answer.into_inner().taken).unwrap_or_default().min(sent);
                if taken == 0 {
                    return Then::Away("it took nothing and did not say why".to_owned()).alone();
                }
                Delivered { taken: waiting[..taken].iter().map(|one| one.position).collect(), then: Then::Go }
            }
        }
    }
}

/// Why a sink took none.
fn failed(status: &Status) -> Then {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.as_str());
    let words = format!("{:?}: {}", status.code(), status.message());
    match (reason, status.code()) {
        (Some(NOT_TAKEN), _) => Then::Blame(vec![(0, words)]),
        (Some(MALFORMED), _) => Then::Park(0, words),
        (
            _,
            Code::Internal
            | Code::Unknown
            | Code::InvalidArgument
            | Code::OutOfRange
            | Code::ResourceExhausted
            | Code::DataLoss
            | Code::FailedPrecondition,
        ) => Then::Narrow(words),
        _ => Then::Away(words),
    }
}
