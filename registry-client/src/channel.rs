//! What a generated client calls through.

use std::{
    future::{Ready, ready},
    task::{Context, Poll},
};

use tonic::{Status, body::Body};

use crate::{ChannelConfig, instance::ServiceName, policy::Methods, resolve::Resolver};

/// What a generated client calls through. Cheap to clone; clones share their
/// connections.
#[derive(Clone, Debug)]
pub struct Channel {}

impl Channel {
    /// A channel to `service` over whatever `resolver` says. Within a tokio
    /// runtime: it starts connecting at once.
    #[must_use]
    pub fn new(
        _service: ServiceName,
        _resolver: &dyn Resolver,
        _methods: Methods,
        _config: ChannelConfig,
    ) -> Self {
        Self {}
    }
}

impl tower_service::Service<http::Request<Body>> for Channel {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        ready(Err(Status::unavailable("stub")))
    }
}
