//! A server's entry in the registry, from its first moment to its last.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{sync::watch, time::timeout};
use tracing::{info, warn};

use super::address;
use crate::{
    Error, ServerConfig,
    consul::{self, CheckSpec, Client, Registration, RegistrationState, ServiceSpec, Weights},
    instance::{Address, HEALTH_SERVICE, KEEPALIVE_MIN, LOCALITY, METRICS_PORT, ServiceName},
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
    /// Where the process answers `/metrics`, if it does.
    pub(super) metrics: Option<SocketAddr>,
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

    /// Returns whether the registry knows the server; `None` without a
    /// registry.
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
    if let CheckSpec::Grpc { interval, success_before_passing, failures_before_critical, .. } = &mut check {
        *interval = config.check_interval;
        *success_before_passing = config.success_before_passing;
        *failures_before_critical = config.failures_before_critical;
    }
    let health_service = wanted.name.to_string();
    let metrics = wanted.metrics.filter(|metrics| is_reached_at(&address, *metrics));
    let mut spec = ServiceSpec::new(wanted.name, address, check);
    spec.tags = wanted.tags;
    spec.meta = wanted.meta;
    spec.meta.insert(HEALTH_SERVICE.to_owned(), health_service);
    // Whoever has put a proxy in front that counts pings says so.
    spec.meta.entry(KEEPALIVE_MIN.to_owned()).or_insert_with(|| ACCEPTED_PING_INTERVAL.to_owned());
    if let Some(metrics) = metrics {
        spec.meta.entry(METRICS_PORT.to_owned()).or_insert_with(|| metrics.port().to_string());
    }
    spec.weights = Weights { passing: config.weight, warning: config.weight };
    if let Some(locality) = &config.locality {
        spec.meta.entry(LOCALITY.to_owned()).or_insert_with(|| locality.to_string());
        spec.locality = Some(locality.clone());
    }
    spec.deregister_after = Some(config.deregister_after);
    Ok(spec)
}

/// Returns whether what listens on `bound` is reached at the host of `address`.
fn is_reached_at(address: &Address, bound: SocketAddr) -> bool {
    let host: Option<IpAddr> = address.host().parse().ok();
    match bound.ip() {
        // Not over IPv6.
        IpAddr::V4(ip) if ip.is_unspecified() => !host.is_some_and(|host| host.is_ipv6()),
        ip => ip.is_unspecified() || host == Some(ip),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_reached_on_every_interface_or_at_the_registered_host() {
        for (host, bound, reached) in [
            ("10.0.0.7", "0.0.0.0:1", true),
            ("10.0.0.7", "[::]:1", true),
            ("cart.example", "0.0.0.0:1", true),
            ("fe80::1", "[::]:1", true),
            ("fe80::1", "0.0.0.0:1", false),
            ("10.0.0.7", "10.0.0.7:1", true),
            ("10.0.0.7", "10.0.0.8:1", false),
            ("10.0.0.7", "127.0.0.1:1", false),
            ("cart.example", "127.0.0.1:1", false),
            ("127.0.0.1", "127.0.0.1:1", true),
            ("::1", "[::1]:1", true),
        ] {
            let address = Address::new(host, 80).unwrap();
            assert_eq!(is_reached_at(&address, bound.parse().unwrap()), reached, "{host} {bound}");
        }
    }
}
