//! The registration of a server, from its start to its end.

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

/// The timeout of entering maintenance and of deregistering, so that an agent
/// that hangs delays the exit by no more than 2 s.
const DEREGISTER_TIMEOUT: Duration = Duration::from_millis(900);

/// The least time between pings that a server registers. It enforces none; this
/// is below the interval of a keepalive time of 1 s with a timeout of 0.5 s.
const ACCEPTED_PING_INTERVAL: &str = "100ms";

/// The properties of the instance that a server registers.
pub(super) struct InstanceSpec {
    pub(super) name: ServiceName,
    pub(super) tags: Vec<String>,
    pub(super) meta: BTreeMap<String, String>,
    /// The address of `/metrics`, if it is served.
    pub(super) metrics: Option<SocketAddr>,
}

/// The registered instance, maintained until this is dropped; empty without a
/// registry.
pub(super) struct RegisteredInstance {
    registration: Option<Registration>,
}

impl RegisteredInstance {
    /// Starts to register the server that is bound to `bound`. Does not wait
    /// for the registry.
    pub(super) async fn register(
        registry: Option<&Client>,
        spec: InstanceSpec,
        bound: SocketAddr,
        config: &ServerConfig,
    ) -> Result<Self, Error> {
        let Some(registry) = registry else {
            info!(service = %spec.name, "`{}` does not register: its mesh has no registry", spec.name);
            return Ok(Self { registration: None });
        };
        let service_spec = service_spec(registry, spec, bound, config).await?;
        let registration = Registration::start(registry.clone(), service_spec).map_err(unusable)?;
        Ok(Self { registration: Some(registration) })
    }

    /// The state of the registration; `None` without a registry.
    pub(super) fn state(&self) -> Option<watch::Receiver<RegistrationState>> {
        self.registration.as_ref().map(Registration::state)
    }

    /// Puts the instance into maintenance mode.
    pub(super) async fn enter_maintenance(&self) {
        let Some(registration) = &self.registration else { return };
        let result =
            timeout(DEREGISTER_TIMEOUT, registration.maintenance("the server is shutting down")).await;
        log_failure("failed to put this instance into maintenance mode", result);
    }

    /// Deregisters the instance.
    pub(super) async fn deregister(self) {
        let Some(registration) = self.registration else { return };
        let result = timeout(DEREGISTER_TIMEOUT, registration.deregister()).await;
        log_failure(
            "failed to deregister this instance; Consul removes it after its check has been critical for `deregister_after`",
            result,
        );
    }
}

/// The Consul service of an instance. Its check covers the whole server, not
/// one of its services: callers choose an instance by the registered name,
/// whichever of its services they call. The check uses that name, which another
/// program at this address does not know.
async fn service_spec(
    registry: &Client,
    spec: InstanceSpec,
    bound: SocketAddr,
    config: &ServerConfig,
) -> Result<ServiceSpec, Error> {
    let address = address::advertised(config.advertise.as_ref(), bound, registry).await?;
    let mut check = CheckSpec::grpc(&address, spec.name.as_str());
    if let CheckSpec::Grpc { interval, success_before_passing, failures_before_critical, .. } = &mut check {
        *interval = config.check_interval;
        *success_before_passing = config.success_before_passing;
        *failures_before_critical = config.failures_before_critical;
    }
    let health_service = spec.name.to_string();
    let metrics = spec.metrics.filter(|metrics| is_reached_at(&address, *metrics));
    let mut service_spec = ServiceSpec::new(spec.name, address, check);
    service_spec.tags = spec.tags;
    service_spec.meta = spec.meta;
    service_spec.meta.insert(HEALTH_SERVICE.to_owned(), health_service);
    // A server behind a proxy that limits pings sets its own value.
    service_spec.meta.entry(KEEPALIVE_MIN.to_owned()).or_insert_with(|| ACCEPTED_PING_INTERVAL.to_owned());
    if let Some(metrics) = metrics {
        service_spec.meta.entry(METRICS_PORT.to_owned()).or_insert_with(|| metrics.port().to_string());
    }
    service_spec.weights = Weights { passing: config.weight, warning: config.weight };
    if let Some(locality) = &config.locality {
        service_spec.meta.entry(LOCALITY.to_owned()).or_insert_with(|| locality.to_string());
        service_spec.locality = Some(locality.clone());
    }
    service_spec.deregister_after = Some(config.deregister_after);
    Ok(service_spec)
}

/// Returns whether a listener on `bound` is reachable at the host of `address`.
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

fn log_failure(action: &str, outcome: Result<Result<(), consul::Error>, tokio::time::error::Elapsed>) {
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "{action}: {error}"),
        Err(_) => warn!("{action}: no response within {DEREGISTER_TIMEOUT:?}"),
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
