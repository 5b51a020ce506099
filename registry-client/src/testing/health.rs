//! The health service of a faulty service.

use std::{
    pin::pin,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use h2::{SendStream, server::SendResponse};
use tokio::sync::Notify;
use tonic::{Code, Status};

use super::stream;

/// The path of `Watch`.
pub(super) const WATCH: &str = "/grpc.health.v1.Health/Watch";
/// The path of `Check`.
pub(super) const CHECK: &str = "/grpc.health.v1.Health/Check";

/// The reply of a [`FaultyService`](super::FaultyService) to
/// `grpc.health.v1.Health/Watch` and `/Check`, for any service name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HealthReply {
    /// `SERVING`.
    #[default]
    Serving,
    /// `NOT_SERVING`.
    NotServing,
    /// `SERVICE_UNKNOWN`.
    ServiceUnknown,
    /// The status `NOT_FOUND`, as of a server that does not have the service.
    NotFound,
    /// The status `UNIMPLEMENTED`, as of a server without health checking.
    Unimplemented,
    /// No response, ever.
    Silent,
}

impl HealthReply {
    /// The framed `HealthCheckResponse`.
    fn message(self) -> Option<Bytes> {
        let status = match self {
            Self::Serving => 1,
            Self::NotServing => 2,
            Self::ServiceUnknown => 3,
            Self::NotFound | Self::Unimplemented | Self::Silent => return None,
        };
        // Not compressed, two bytes long: field 1 as a varint.
        Some(Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status]))
    }
}

/// The current reply, and a notification of changes.
#[derive(Default)]
pub(super) struct Current {
    now: Mutex<HealthReply>,
    /// Wakes in a fixed order, so that a simulation can be repeated.
    changed: Notify,
}

impl Current {
    pub(super) fn set(&self, health: HealthReply) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = health;
        self.changed.notify_waiters();
    }

    fn get(&self) -> HealthReply {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Responds to one request; `once` for a check.
    pub(super) async fn respond(&self, once: bool, mut respond: SendResponse<Bytes>) {
        let mut last_sent = None;
        let mut out: Option<SendStream<Bytes>> = None;
        loop {
            // Listen first and look then, or a change in between is missed.
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            let now = self.get();
            if last_sent != Some(now) {
                last_sent = Some(now);
                match now {
                    HealthReply::Unimplemented => {
                        return refuse(respond, out, &Status::unimplemented("no health checking here"));
                    }
                    HealthReply::NotFound => {
                        return refuse(respond, out, &Status::not_found("no such service here"));
                    }
                    _ => {}
                }
                if let Some(message) = now.message() {
                    let sent = match &mut out {
                        Some(out) => out.send_data(message, false),
                        None => respond
                            .send_response(stream::head(), false)
                            .and_then(|begun| out.insert(begun).send_data(message, false)),
                    };
                    if sent.is_err() {
                        return;
                    }
                    if once {
                        return finish(out, &Status::new(Code::Ok, ""));
                    }
                }
            }
            let gone = async {
                match &mut out {
                    Some(out) => std::future::poll_fn(|cx| out.poll_reset(cx)).await.is_ok(),
                    None => std::future::poll_fn(|cx| respond.poll_reset(cx)).await.is_ok(),
                }
            };
            tokio::select! {
                biased;
                () = changed => {}
                _ = gone => return,
            }
        }
    }
}

fn refuse(mut respond: SendResponse<Bytes>, out: Option<SendStream<Bytes>>, status: &Status) {
    if out.is_some() {
        return finish(out, status);
    }
    // The client may be gone, and then needs no response.
    let _ = respond.send_response(stream::only(status), true);
}

fn finish(out: Option<SendStream<Bytes>>, status: &Status) {
    if let Some(mut out) = out {
        let _ = out.send_trailers(stream::trailers(status));
    }
}
