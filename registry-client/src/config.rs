//! Settings, each with its unit and default. Plain values: only the
//! `from_env` constructors read the environment.

use std::{num::NonZeroUsize, time::Duration};

use crate::{Error, balance::Balancer, health::OutlierConfig, policy::ServiceConfig};

mod admin;
mod admission;
mod duration;
mod env;
mod server;

pub use admin::AdminConfig;
pub use admission::AdmissionConfig;
pub use duration::parse_duration;
pub use server::{Advertise, ServerConfig};

pub(crate) use env::{Environment, refuse_control_characters};

/// The settings of a [`Channel`](crate::Channel).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ChannelConfig {
    /// The deadline of a call whose caller sets no `grpc-timeout`: waiting,
    /// connecting and all attempts together; 15 s unless set
    /// (`CONSORT_DEADLINE`).
    pub deadline: Duration,
    /// The balancing policy; `least_request` unless set (`CONSORT_BALANCER`).
    pub balancer: Balancer,
    /// The silence after which a connection is pinged, to detect a dead peer;
    /// 10 s unless set (`CONSORT_KEEPALIVE_TIME`). A connection with calls in
    /// flight is pinged sooner: after half of this or of `keepalive_timeout`,
    /// whichever is less. Both are limited by the rate of pings that the peer
    /// accepts: see `keepalive_min`.
    pub keepalive_time: Duration,
    /// The longest wait for a PING ACK before the connection counts as dead; 5
    /// s unless set (`CONSORT_KEEPALIVE_TIMEOUT`).
    pub keepalive_timeout: Duration,
    /// The least time between two pings that every instance accepts, with or
    /// without calls in flight; `None` unless set (`CONSORT_KEEPALIVE_MIN`).
    /// `None` uses the value that the instance has registered as
    /// [`KEEPALIVE_MIN`](crate::instance::KEEPALIVE_MIN), as this library's own
    /// servers do. Without either, a connection carries no more pings than a
    /// gRPC server of any language accepts by default: two in a row while calls
    /// in flight are silent, and then one every 5.5 min, each only while calls
    /// are in flight; data or headers from the peer allow two again. A peer
    /// that hangs is then detected late, by the deadlines of its calls; a
    /// machine that is gone is detected by TCP keepalive after `keepalive_time`
    /// and three probes.
    pub keepalive_min: Option<Duration>,
    /// The timeout of an attempt to connect to an instance; 5 s unless set
    /// (`CONSORT_CONNECT_TIMEOUT`). The next attempt at a passing instance
    /// comes a second after the start of the last, so that a value of about 1 s
    /// finds a recovered network soonest.
    pub connect_timeout: Duration,
    /// True if a call fails at once, with UNAVAILABLE, when no instance is
    /// ready and none is being connected to for the first time. Off unless set:
    /// the call waits for one until its deadline.
    pub fail_fast: bool,
    /// The service config, with the settings of methods; the defaults unless
    /// set (`CONSORT_SERVICE_CONFIG`, gRPC's service-config JSON or the name of
    /// a file with it).
    pub service_config: ServiceConfig,
    /// Outlier detection; on, with the defaults of [`OutlierConfig`], unless
    /// set. `None` is off. The service config overrides it.
    pub outlier: Option<OutlierConfig>,
    /// True if the health of each instance is watched
    /// (`grpc.health.v1.Health/Watch`), and an instance that does not serve
    /// gets no calls; on unless set. An instance without a health service gets
    /// calls.
    pub health_watch: bool,
    /// The service name of health checks: the full name of a gRPC service, or
    /// the empty name for the whole server; empty unless set. The service
    /// config overrides it.
    pub health_service: String,
    /// The most bytes of one message of a response, unless the service config
    /// sets it for the method; 4 MiB unless set, as in every gRPC library. A
    /// larger one ends the call with `RESOURCE_EXHAUSTED`. A generated client
    /// has a limit of its own, `max_decoding_message_size`; raise both.
    pub max_response_bytes: usize,
    /// The most connections to one instance; 4 unless set. An additional one is
    /// opened when the others are at the peer's stream limit, and closed when
    /// it was unused for 30 s.
    pub max_connections_per_instance: NonZeroUsize,
    /// The slow start of an instance that joins others: the time in which its
    /// weight grows from a tenth to all of it, under a policy with weights
    /// (`weighted`, `least_request`); 10 s unless set, 0 is off.
    pub slow_start: Duration,
}

impl Default for ChannelConfig {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(15),
            balancer: Balancer::default(),
            keepalive_time: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(5),
            keepalive_min: None,
            connect_timeout: Duration::from_secs(5),
            fail_fast: false,
            service_config: ServiceConfig::default(),
            outlier: Some(OutlierConfig::default()),
            health_watch: true,
            health_service: String::new(),
            max_response_bytes: 4 << 20,
            max_connections_per_instance: NonZeroUsize::MIN.saturating_add(3),
            slow_start: Duration::from_secs(10),
        }
    }
}

impl ChannelConfig {
    /// The defaults, overridden by the environment: `CONSORT_DEADLINE`,
    /// `CONSORT_BALANCER`, `CONSORT_KEEPALIVE_TIME`,
    /// `CONSORT_KEEPALIVE_TIMEOUT`, `CONSORT_KEEPALIVE_MIN`,
    /// `CONSORT_CONNECT_TIMEOUT`, `CONSORT_SERVICE_CONFIG`. A variable that is
    /// empty counts as unset.
    ///
    /// # Errors
    /// When the value of a variable is invalid or contradicts another; the
    /// error names the variable, the value and what is expected.
    pub fn from_env() -> Result<Self, Error> {
        Self::read(&Environment::of_process())
    }

    pub(crate) fn read(env: &Environment<'_>) -> Result<Self, Error> {
        let default = Self::default();
        let balancer = env.parse("CONSORT_BALANCER")?;
        let service_config =
            env.parse_with("CONSORT_SERVICE_CONFIG", ServiceConfig::from_file_or_json)?.unwrap_or_default();
        if let (Some(from_env), Some(from_service_config)) = (balancer, service_config.balancer)
            && from_env != from_service_config
        {
            return Err(Error::Config(format!(
                "CONSORT_BALANCER: `{from_env}` contradicts CONSORT_SERVICE_CONFIG, where loadBalancingConfig says `{from_service_config}`; set one of them"
            )));
        }
        Ok(Self {
            deadline: env.positive_duration("CONSORT_DEADLINE")?.unwrap_or(default.deadline),
            balancer: balancer.unwrap_or(default.balancer),
            keepalive_time: env
                .positive_duration("CONSORT_KEEPALIVE_TIME")?
                .unwrap_or(default.keepalive_time),
            keepalive_timeout: env
                .positive_duration("CONSORT_KEEPALIVE_TIMEOUT")?
                .unwrap_or(default.keepalive_timeout),
            keepalive_min: env.positive_duration("CONSORT_KEEPALIVE_MIN")?,
            connect_timeout: env
                .positive_duration("CONSORT_CONNECT_TIMEOUT")?
                .unwrap_or(default.connect_timeout),
            service_config,
            ..default
        }
        .settled())
    }

    /// The settings with the overrides of the service config applied.
    pub(crate) fn settled(mut self) -> Self {
        let ServiceConfig { balancer, outlier, health_service, .. } = &self.service_config;
        self.balancer = balancer.unwrap_or(self.balancer);
        self.outlier = outlier.clone().or(self.outlier);
        if let Some(name) = health_service {
            self.health_service.clone_from(name);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &'static str, value: &'static str) -> Result<ChannelConfig, String> {
        let lookup = move |from_env: &str| (from_env == name).then(|| value.into());
        ChannelConfig::read(&Environment::new(&lookup)).map_err(|e| e.to_string())
    }

    #[test]
    fn an_unset_or_empty_variable_leaves_the_default() {
        assert_eq!(read("OTHER", "1s").unwrap(), ChannelConfig::default());
        assert_eq!(read("CONSORT_DEADLINE", "").unwrap(), ChannelConfig::default());
    }

    #[test]
    fn a_set_variable_replaces_the_default() {
        assert_eq!(read("CONSORT_DEADLINE", "1m30s").unwrap().deadline, Duration::from_secs(90));
        assert_eq!(
            read("CONSORT_KEEPALIVE_TIME", "500ms").unwrap().keepalive_time,
            Duration::from_millis(500)
        );
        assert_eq!(read("CONSORT_BALANCER", "round_robin").unwrap().balancer, Balancer::RoundRobin);
    }

    #[test]
    fn a_bad_variable_is_named_with_its_value_and_what_is_expected() {
        let said = read("CONSORT_DEADLINE", "soon").unwrap_err();
        assert_eq!(said, "CONSORT_DEADLINE: `soon` is not a duration such as 15s, 500ms or 1m30s");
        let said = read("CONSORT_DEADLINE", "0s").unwrap_err();
        assert_eq!(said, "CONSORT_DEADLINE: `0s` is no time at all; a duration above 0 is expected");
        let said = read("CONSORT_BALANCER", "best").unwrap_err();
        assert!(said.contains("`best`") && said.contains("round_robin"), "{said}");
        let said = read("CONSORT_SERVICE_CONFIG", r#"{"retryThrottling": {"maxTokens": 0}}"#).unwrap_err();
        assert_eq!(
            said,
            "CONSORT_SERVICE_CONFIG: retryThrottling.maxTokens: 0 does not do; an integer of 1 to 1000 is expected"
        );
    }

    #[test]
    fn what_a_service_config_says_stands_in_place_of_a_setting() {
        let said = read(
            "CONSORT_SERVICE_CONFIG",
            r#"{
                "loadBalancingConfig": [{"outlier_detection_experimental": {"childPolicy": [{"random": {}}]}}],
                "healthCheckConfig": {"serviceName": "a.B"}
            }"#,
        );
        let config = said.unwrap();
        assert_eq!((config.balancer, config.outlier), (Balancer::Random, Some(OutlierConfig::a50())));
        assert_eq!(config.health_service, "a.B");
        let in_code = ChannelConfig {
            service_config: r#"{"loadBalancingPolicy": "random"}"#.parse().unwrap(),
            ..ChannelConfig::default()
        };
        assert_eq!(in_code.settled().balancer, Balancer::Random);
    }

    #[test]
    fn a_service_config_names_the_balancer_unless_another_variable_contradicts() {
        let config = r#"{"loadBalancingConfig": [{"round_robin": {}}]}"#;
        assert_eq!(read("CONSORT_SERVICE_CONFIG", config).unwrap().balancer, Balancer::RoundRobin);
        assert_eq!(read("CONSORT_SERVICE_CONFIG", "{}").unwrap(), ChannelConfig::default());
        let both = |balancer: &'static str| {
            let lookup = move |from_env: &str| match from_env {
                "CONSORT_SERVICE_CONFIG" => Some(config.into()),
                "CONSORT_BALANCER" => Some(balancer.into()),
                _ => None,
            };
            ChannelConfig::read(&Environment::new(&lookup)).map_err(|e| e.to_string())
        };
        assert_eq!(both("round_robin").unwrap().balancer, Balancer::RoundRobin);
        let said = both("random").unwrap_err();
        assert!(said.starts_with("CONSORT_BALANCER: `random` contradicts CONSORT_SERVICE_CONFIG"), "{said}");
    }
}
