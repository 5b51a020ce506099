//! A server's entry in the registry, from its first moment to its last.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use tokio::{sync::watch, time::timeout};
use tracing::{info, warn};

use super::address;
use crate::{
    Error, ServerConfig,
    consul::{self, CheckSpec, Client, Registration, RegistrationState, ServiceSpec},
    instance::{HEALTH_SERVICE, KEEPALIVE_MIN, ServiceName},
};

/// How long each of the two farewells may wait for the agent, so that one that
/// hangs delays the exit by no more than 2 s, with something to spare.
const FAREWELL: Duration = Duration::from_millis(900);

/// The least time between pings that a server says it accepts. It counts none;
/// this is below what a keep-alive time of 1 s with a timeout of 0.5 s takes.
const ACCEPTED_PING_INTERVAL: &str = "100ms";

/// What a server wants to be listed as.
pub(super) struct Wanted {
    pub(super) name: ServiceName,
    pub(super) tags: Vec<String>,
    pub(super) meta: BTreeMap<String, String>,
}

/// The entry, kept up until it is dropped; none without a registry.
pub(super) struct Listing {
    registration: Option<Registration>,
}

impl Listing {
    /// Begins to keep the server that is bound to `bound` registered. Does not
    /// wait for the registry.
    pub(super) async fn begin(
        registry: Option<&Client>,
        wanted: Wanted,
        bound: SocketAddr,
        config: &ServerConfig,
    ) -> Result<Self, Error> {
        let Some(registry) = registry else {
            info!(service = %wanted.name, "`{}` does not register: its mesh has no registry", wanted.name);
            return Ok(Self { registration: None });
        };
        let spec = spec(registry, wanted, bound, config).await?;
        let registration = Registration::start(registry.clone(), spec).map_err(unusable)?;
        Ok(Self { registration: Some(registration) })
    }

    /// Whether the registry knows the server; `None` without a registry.
    pub(super) fn state(&self) -> Option<watch::Receiver<RegistrationState>> {
        self.registration.as_ref().map(Registration::state)
    }

    /// Tells the registry that the server is leaving.
    pub(super) async fn leave(&self) {
        let Some(registration) = &self.registration else { return };
        let told = timeout(FAREWELL, registration.maintenance("the server is shutting down")).await;
        said("could not tell the registry that this instance is leaving", told);
    }

    /// Takes the server out of the registry.
    pub(super) async fn end(self) {
        let Some(registration) = self.registration else { return };
        let told = timeout(FAREWELL, registration.deregister()).await;
        said(
            "could not deregister; the registry drops the instance once its check has failed for long",
            told,
        );
    }
}

/// The whole server's health decides, not that of one of its services: callers
/// choose the process by the registered name, whichever of its services they
/// call, and the overall health takes each into account. It is asked for by
/// that name, which another program at this address does not know.
async fn spec(
    registry: &Client,
    wanted: Wanted,
    bound: SocketAddr,
    config: &ServerConfig,
) -> Result<ServiceSpec, Error> {
    let address = address::advertised(config.advertise.as_ref(), bound, registry).await?;
    let mut check = CheckSpec::grpc(&address, wanted.name.as_str());
    if let CheckSpec::Grpc { interval, .. } = &mut check {
        *interval = config.check_interval;
    }
    let health_service = wanted.name.to_string();
    let mut spec = ServiceSpec::new(wanted.name, address, check);
    spec.tags = wanted.tags;
    spec.meta = wanted.meta;
    spec.meta.insert(HEALTH_SERVICE.to_owned(), health_service);
    // Whoever has put a proxy in front that counts pings says so.
    spec.meta.entry(KEEPALIVE_MIN.to_owned()).or_insert_with(|| ACCEPTED_PING_INTERVAL.to_owned());
    spec.deregister_after = Some(config.deregister_after);
    Ok(spec)
}

fn unusable(why: consul::Error) -> Error {
    Error::Config(why.to_string())
}

fn said(failed: &str, outcome: Result<Result<(), consul::Error>, tokio::time::error::Elapsed>) {
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "{failed}: {error}"),
        Err(_) => warn!("{failed}: no answer within {FAREWELL:?}"),
    }
}
