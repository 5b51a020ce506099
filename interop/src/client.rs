//! Our client: a generated client over one channel.

use std::{
    net::SocketAddr,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures_util::future::BoxFuture;
use http::{Request, Response};
use registry_client::{Channel, ChannelConfig, Mesh, ResponseBody, resolve::fixed::FixedResolver};
use tonic::{Status, body::Body, codec::CompressionEncoding::Gzip};
use tower_service::Service;

use crate::{
    prefixes::{Flags, ScannedBody},
    proto::{
        DESCRIPTORS, Payload, test_service_client::TestServiceClient,
        unimplemented_service_client::UnimplementedServiceClient,
    },
};

/// The deadline in cases that do not test deadlines: a JVM takes seconds for
/// its first call.
const DEADLINE: Duration = Duration::from_secs(20);

/// A channel to one server, whose responses' message prefixes can be read.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    server: SocketAddr,
    /// The silent time of the cases of the group `Silence`.
    pub(crate) silence: Duration,
    channel: Channel,
    responses: Flags,
    compresses: bool,
}

impl Client {
    /// A new channel with the defaults except the deadline.
    ///
    /// # Errors
    /// When the settings are invalid.
    pub(crate) fn new(server: SocketAddr, silence: Duration) -> Result<Self> {
        let mut config = ChannelConfig::default();
        config.deadline = DEADLINE;
        let mesh = Mesh::builder().resolver(FixedResolver::new([server])).descriptors(DESCRIPTORS);
        let channel = mesh.channel_config(config).build()?.channel("interop");
        Ok(Self { server, silence, channel, responses: Flags::default(), compresses: false })
    }

    /// Another channel to the same server.
    ///
    /// # Errors
    /// When the settings are invalid.
    pub(crate) fn another(&self) -> Result<Self> {
        Self::new(self.server, self.silence)
    }

    /// The same channel with empty flags.
    pub(crate) fn with_new_flags(&self) -> Self {
        Self { responses: Flags::default(), compresses: false, ..self.clone() }
    }

    /// The same channel; every request is compressed by gzip and compressed
    /// responses are accepted.
    pub(crate) fn compressing(&self) -> Self {
        Self { compresses: true, ..self.clone() }
    }

    /// The generated client of the service under test.
    pub(crate) fn test(&self) -> TestServiceClient<Self> {
        let client = TestServiceClient::new(self.clone());
        if self.compresses { client.send_compressed(Gzip).accept_compressed(Gzip) } else { client }
    }

    /// The generated client of a service that no server has.
    pub(crate) fn unimplemented(&self) -> UnimplementedServiceClient<Self> {
        UnimplementedServiceClient::new(self.clone())
    }

    /// The compressed flag of each response message of this client's calls.
    pub(crate) fn compressed(&self) -> Vec<bool> {
        self.responses.all()
    }

    /// The connections opened and lost so far.
    ///
    /// # Errors
    /// When the channel is broken.
    pub(crate) fn connections(&self) -> Result<Connections> {
        let counters = self.channel.counters().context("the channel is broken")?;
        Ok(Connections { opened: counters.connections_opened.get(), lost: counters.connections_closed.get() })
    }
}

/// The number of connections that a channel has opened and lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connections {
    pub(crate) opened: u64,
    pub(crate) lost: u64,
}

impl Service<Request<Body>> for Client {
    type Response = Response<ScannedBody<ResponseBody>>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Self::Response, Status>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.channel.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (call, flags) = (self.channel.call(request), self.responses.clone());
        Box::pin(async move { Ok(call.await?.map(|body| ScannedBody::new(body, flags))) })
    }
}

/// A payload of `size` zero bytes.
pub(crate) fn payload(size: usize) -> Payload {
    Payload { body: vec![0; size], ..Payload::default() }
}
