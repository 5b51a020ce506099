//! What a generated client calls through: the way from a request to an
//! instance and back.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderValue, Uri, uri::Authority};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, body::Body};

use crate::{
    ChannelConfig,
    balance::Picker,
    instance::ServiceName,
    policy::{
        Methods, Policies,
        budget::Budget,
        deadline::{self, SERVER_MARGIN},
    },
    resolve::Resolver,
    telemetry::{ChannelState, Counters},
};

mod admission;
mod answer;
mod call;
mod connect;
mod connection;
mod failure;
mod head;
mod in_flight;
mod interim;
mod keepalive;
mod pool;
mod response;
mod subchannel;
mod upload;
mod watch;

use admission::Admission;
pub use answer::Answer;
pub use call::Call;
#[cfg(not(feature = "test-util"))]
use connect::Connector;
#[cfg(feature = "test-util")]
pub use connect::{Connector, Io};
use failure::Failure;
use pool::{Known, Pool, View};

/// What a generated client calls through: every call goes to one of the
/// service's instances, and to another if that one fails and the method may
/// be sent again.
///
/// Use it as the argument of a generated client's `new`. Cheap to clone;
/// clones share their connections, which close when the last clone and the
/// last call are gone.
///
/// # Deadlines
/// Every call ends: after its `grpc-timeout` ([`tonic::Request::set_timeout`])
/// or else after [`ChannelConfig::deadline`], with `DEADLINE_EXCEEDED`. That
/// covers waiting for an instance, connecting, every attempt and the body of
/// the answer. Only where a descriptor says that the answer is a stream, and
/// the caller set no timeout, the default covers no more than its head.
///
/// # Retries
/// A request that provably was not processed is sent again to another
/// instance. One that may have been is, up to two times and within the
/// channel's budget, if its method is marked `NO_SIDE_EFFECTS` or `IDEMPOTENT`
/// in [`Methods`] and the request is no larger than 256 KiB. A
/// [`ServiceConfig`](crate::policy::ServiceConfig) changes all of that, and can
/// hedge: send to a second instance before the first has answered.
///
/// # Cancel safety
/// Dropping a call, or the body of its answer, resets its stream.
#[derive(Clone)]
pub struct Channel {
    core: Result<Arc<Core>, Status>,
}

/// What the clones of a channel share.
struct Core {
    service: ServiceName,
    authority: Authority,
    /// `config.deadline` as a `grpc-timeout`.
    default_timeout: HeaderValue,
    policies: Policies,
    budget: Arc<Budget>,
    admission: Admission,
    config: ChannelConfig,
    picker: Box<dyn Picker>,
    view: Arc<View>,
    counters: Arc<Counters>,
    _pool: AbortOnDropHandle<()>,
}

impl Channel {
    /// A channel to `service` over whatever `resolver` says. Called within a
    /// tokio runtime; connecting begins at once.
    #[must_use]
    pub fn new(
        service: ServiceName,
        resolver: &dyn Resolver,
        methods: Methods,
        config: ChannelConfig,
    ) -> Self {
        Self::over(service, resolver, methods, config, Connector::default())
    }

    /// A channel as [`new`](Self::new) makes it, whose sockets `connector`
    /// opens.
    #[cfg(feature = "test-util")]
    #[must_use]
    pub fn with_connector(
        service: ServiceName,
        resolver: &dyn Resolver,
        methods: Methods,
        config: ChannelConfig,
        connector: Connector,
    ) -> Self {
        Self::over(service, resolver, methods, config, connector)
    }

    fn over(
        service: ServiceName,
        resolver: &dyn Resolver,
        methods: Methods,
        config: ChannelConfig,
        connector: Connector,
    ) -> Self {
        let config = config.settled();
        let resolution = resolver.resolve(&service);
        let view = Arc::new(View::new());
        let Ok(authority) = Authority::try_from(service.as_str()) else {
            return Self::broken(Status::internal(format!("`{service}` cannot stand in a URI")));
        };
        let Ok(default_timeout) = HeaderValue::try_from(deadline::format(config.deadline + SERVER_MARGIN))
        else {
            return Self::broken(Status::internal("the deadline cannot stand in a header"));
        };
        let policies = match Policies::new(&methods, &config.service_config) {
            Ok(policies) => policies,
            Err(why) => return Self::broken(Status::invalid_argument(why.to_string())),
        };
        let admission = Admission::new(&service, &config.service_config);
        let counters = Arc::<Counters>::default();
        let told = counters.clone();
        let pool = Pool::new(service.clone(), connector, config.clone(), view.clone(), resolution, told);
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

    /// What the channel knows right now; `None` of a [broken](Self::broken) one.
    #[must_use]
    pub fn state(&self) -> Option<ChannelState> {
        let core = self.core.as_ref().ok()?;
        let snapshot = core.view.snapshot();
        Some(ChannelState {
            service: core.service.to_string(),
            balancer: core.config.balancer.to_string(),
            ready: snapshot.ready.len(),
            why_none: snapshot.ready.is_empty().then(|| snapshot.why.to_string()),
            resolver_error: snapshot.resolver_error.as_deref().map(str::to_owned),
            instances: snapshot.known.iter().map(Known::state).collect(),
            calls: core.counters.calls.get(),
            attempts: core.counters.attempts.get(),
            retries: core.counters.retries.get() + core.counters.transparent_retries.get(),
            hedges: core.counters.hedges.get(),
            ejections: core.counters.ejections.get(),
        })
    }

    /// What the channel has counted; `None` of a [broken](Self::broken) one.
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
    type Response = http::Response<Answer>;
    type Error = Status;
    type Future = Call;

    /// Always ready: waiting for an instance belongs to the call, where the
    /// deadline bounds it.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Call {
        match &self.core {
            Ok(core) => Call::new(core.clone(), request),
            Err(status) => Call::failed(status.clone()),
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = self.core.as_ref().map(|core| core.service.as_str());
        f.debug_struct("Channel").field("service", &service).finish_non_exhaustive()
    }
}
