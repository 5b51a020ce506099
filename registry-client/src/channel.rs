//! The client side of a call: from a request to an instance and back.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderValue, Uri, uri::Authority};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, body::Body};

use crate::{
    ChannelConfig,
    balance::Picker,
    instance::ServiceName,
    policy::{
        Methods, Policies,
        budget::Budget,
        timeout::{self, SERVER_MARGIN},
    },
    resolve::{Resolution, Resolver},
    telemetry::{ChannelState, Counters},
};

mod admission;
mod call;
mod connect;
mod connection;
mod deadline;
mod failure;
mod head;
mod health_check;
mod in_flight;
mod interim;
mod keepalive;
mod no_instance;
mod peer;
mod pool;
mod response;
mod response_body;
mod streams;
mod subchannel;
mod upload;

use admission::ClientLimits;
pub use call::ResponseFuture;
#[cfg(not(feature = "test-util"))]
use connect::Connector;
#[cfg(feature = "test-util")]
pub use connect::{Connector, Io};
use failure::Failure;
use pool::{InstanceSnapshot, Pool, View};
pub use response_body::ResponseBody;

/// A gRPC channel to one service: every call goes to one of the service's
/// instances, and to another if that one fails and the method may be retried.
///
/// Use it as the argument of a generated client's `new`. Cheap to clone;
/// clones share their connections, which close when the last clone and the
/// last call are gone.
///
/// # Deadlines
/// Every call ends: after its `grpc-timeout` ([`tonic::Request::set_timeout`])
/// or else after [`ChannelConfig::deadline`], with `DEADLINE_EXCEEDED`. That
/// covers waiting for an instance, connecting, every attempt and the body of
/// the response. Only where a descriptor says that the response is a stream,
/// and the caller set no timeout, the default covers no more than its head.
///
/// # Retries
/// A request that was provably not processed is sent again, to another
/// instance. A request that may have been processed is retried, up to twice and
/// within the retry budget, if its method is marked `NO_SIDE_EFFECTS` or
/// `IDEMPOTENT` in [`Methods`] and the request is no larger than 256 KiB. A
/// [`ServiceConfig`](crate::policy::ServiceConfig) changes all of that, and can
/// hedge: send to a second instance before the first has answered.
///
/// # Cancel safety
/// Dropping a call, or the body of its response, resets its stream.
#[derive(Clone)]
pub struct Channel {
    core: Result<Arc<Core>, Status>,
}

/// The part of a channel that its clones share.
struct Core {
    service: ServiceName,
    authority: Authority,
    /// `config.deadline` as a `grpc-timeout`.
    default_timeout: HeaderValue,
    policies: Policies,
    budget: Arc<Budget>,
    admission: ClientLimits,
    config: ChannelConfig,
    picker: Box<dyn Picker>,
    view: Arc<View>,
    counters: Arc<Counters>,
    _pool: AbortOnDropHandle<()>,
}

impl Channel {
    /// A channel to the instances of `service` that `resolver` finds. Must be
    /// called within a tokio runtime; connecting begins at once.
    #[must_use]
    pub fn new(
        service: ServiceName,
        resolver: &dyn Resolver,
        methods: Methods,
        config: ChannelConfig,
    ) -> Self {
        let resolution = resolver.resolve(&service);
        Self::from_resolution(service, resolution, methods, config)
    }

    /// A channel to the instances of `resolution`.
    pub(crate) fn from_resolution(
        service: ServiceName,
        resolution: watch::Receiver<Resolution>,
        methods: Methods,
        config: ChannelConfig,
    ) -> Self {
        Self::build(service, resolution, methods, config, Connector::default())
    }

    /// Like [`new`](Self::new), with a `connector` that opens the sockets.
    #[cfg(feature = "test-util")]
    #[must_use]
    pub fn with_connector(
        service: ServiceName,
        resolver: &dyn Resolver,
        methods: Methods,
        config: ChannelConfig,
        connector: Connector,
    ) -> Self {
        let resolution = resolver.resolve(&service);
        Self::build(service, resolution, methods, config, connector)
    }

    fn build(
        service: ServiceName,
        resolution: watch::Receiver<Resolution>,
        methods: Methods,
        config: ChannelConfig,
        connector: Connector,
    ) -> Self {
        let config = config.settled();
        let view = Arc::new(View::new());
        let Ok(authority) = Authority::try_from(service.as_str()) else {
            return Self::broken(Status::internal(format!("`{service}` is not a valid authority of a URI")));
        };
        let Ok(default_timeout) = HeaderValue::try_from(timeout::format(config.deadline + SERVER_MARGIN))
        else {
            return Self::broken(Status::internal(
                "the configured deadline does not fit into a grpc-timeout header",
            ));
        };
        let policies = match Policies::new(&methods, &config.service_config) {
            Ok(policies) => policies,
            Err(why) => return Self::broken(Status::invalid_argument(why.to_string())),
        };
        let admission = ClientLimits::new(&service, &config.service_config);
        let counters = Arc::<Counters>::default();
        let counted = counters.clone();
        let pool = Pool::new(service.clone(), connector, config.clone(), view.clone(), resolution, counted);
        let core = Core {
            service,
            authority,
            default_timeout,
            policies,
            budget: Arc::new(Budget::new(config.service_config.budget)),
            admission,
            picker: config.balancer.picker(),
            config,
            view,
            counters,
            _pool: AbortOnDropHandle::new(tokio::spawn(pool.run())),
        };
        Self { core: Ok(Arc::new(core)) }
    }

    /// A channel whose every call fails with `status`.
    #[must_use]
    pub fn broken(status: Status) -> Self {
        Self { core: Err(status) }
    }

    /// The state of the channel at this moment; `None` for a
    /// [broken](Self::broken) one.
    #[must_use]
    pub fn state(&self) -> Option<ChannelState> {
        let core = self.core.as_ref().ok()?;
        let snapshot = core.view.snapshot();
        Some(ChannelState {
            service: core.service.to_string(),
            balancer: core.config.balancer.to_string(),
            ready: snapshot.ready.len(),
            why_none: snapshot.ready.is_empty().then(|| snapshot.no_instance.to_string()),
            resolver_error: snapshot.resolver_error.as_deref().map(str::to_owned),
            instances: snapshot.instances.iter().map(InstanceSnapshot::state).collect(),
            calls: core.counters.calls.get(),
            attempts: core.counters.attempts.get(),
            retries: core.counters.retries.get() + core.counters.transparent_retries.get(),
            hedges: core.counters.hedges.get(),
            ejections: core.counters.ejections.get(),
        })
    }

    /// The counters of the channel; `None` for a [broken](Self::broken) one.
    #[must_use]
    pub fn counters(&self) -> Option<Arc<Counters>> {
        self.core.as_ref().ok().map(|core| core.counters.clone())
    }
}

impl Core {
    /// The full URI of a method; `uri` holds its path.
    #[inline]
    fn uri(&self, uri: Uri) -> Result<Uri, Failure> {
        let mut parts = uri.into_parts();
        parts.scheme = Some(http::uri::Scheme::HTTP);
        parts.authority = Some(self.authority.clone());
        Uri::from_parts(parts).map_err(|e| Failure::BadRequest { cause: e.to_string().into() })
    }
}

impl tower_service::Service<http::Request<Body>> for Channel {
    type Response = http::Response<ResponseBody>;
    type Error = Status;
    type Future = ResponseFuture;

    /// Always ready: a call itself waits for an instance, bounded by its
    /// deadline.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> ResponseFuture {
        match &self.core {
            Ok(core) => ResponseFuture::new(core.clone(), request),
            Err(status) => ResponseFuture::failed(status.clone()),
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = self.core.as_ref().map(|core| core.service.as_str());
        f.debug_struct("Channel").field("service", &service).finish_non_exhaustive()
    }
}
