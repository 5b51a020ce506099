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

/// How a [`Channel`](crate::Channel) calls.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ChannelConfig {
    /// The longest a call may take when its caller sets no `grpc-timeout`:
    /// waiting, connecting and all attempts together; 15 s unless set
    /// (`CONSORT_DEADLINE`).
    pub deadline: Duration,
    /// Which instance a call goes to; `least_request` unless set
    /// (`CONSORT_BALANCER`).
    pub balancer: Balancer,
    /// After how long a silence a connection is pinged, to find out whether its
    /// peer is alive; 10 s unless set (`CONSORT_KEEPALIVE_TIME`). One with calls
    /// in flight is pinged sooner: after half of this or of
    /// `keepalive_timeout`, whichever is less. Both only as often as the peer
    /// accepts pings: see `keepalive_min`.
    pub keepalive_time: Duration,
    /// How long the response to that may take before the connection counts as
    /// dead; 5 s unless set (`CONSORT_KEEPALIVE_TIMEOUT`).
    pub keepalive_timeout: Duration,
    /// The least time between two pings that every instance accepts, with or
    /// without calls in flight; `None` unless set (`CONSORT_KEEPALIVE_MIN`).
    /// Then it is what the instance has registered as
    /// [`KEEPALIVE_MIN`](crate::instance::KEEPALIVE_MIN), as this library's own
    /// servers do. With neither, a connection carries no more pings than a
    /// gRPC server of any language accepts by default: two in a row while
    /// calls in flight are silent, and then one every 5.5 min, each only
    /// while calls are in flight; data or headers from the peer allow two
    /// again. A peer that hangs is noticed late then, by the deadlines of the
    /// calls that it does not answer; a machine that is gone is noticed by the
    /// operating system's keep-alive after `keepalive_time` and three probes.
    pub keepalive_min: Option<Duration>,
    /// The longest that connecting to one instance may take; 5 s unless set
    /// (`CONSORT_CONNECT_TIMEOUT`). An instance that the registry calls passing
    /// is tried again a second after a try began, so that a value of about 1 s
    /// finds a healed network soonest.
    pub connect_timeout: Duration,
    /// True if a call fails at once, with UNAVAILABLE, when no instance is
    /// ready and none is being connected to for the first time. Off unless set:
    /// the call waits for one until its deadline.
    pub fail_fast: bool,
    /// What holds for each method, and for all together; nothing but the
    /// defaults unless set (`CONSORT_SERVICE_CONFIG`, gRPC's service-config
    /// JSON or the name of a file that holds it).
    pub service_config: ServiceConfig,
    /// When an instance is taken out because attempts on it fail; on, as
    /// [`OutlierConfig`] has it, unless set. `None` never does. What the
    /// service config says of it wins.
    pub outlier: Option<OutlierConfig>,
    /// True if each instance is asked for its own health
    /// (`grpc.health.v1.Health/Watch`), and gets no calls while it says that it
    /// does not serve; on unless set. One without a health service is called
    /// all the same.
    pub health_watch: bool,
    /// What it is asked for: the full name of a gRPC service, or nothing, as
    /// unless set, for the whole server. What the service config says of it
    /// wins.
    pub health_service: String,
    /// The most bytes of one message of a response where the service config says
    /// nothing for its method; 4 MiB unless set, as in every gRPC library. A
    /// larger one ends the call with `RESOURCE_EXHAUSTED`. A generated client has
    /// a limit of its own, `max_decoding_message_size`; raise both.
    pub max_response_bytes: usize,
    /// How many connections there may be to one instance; 4 unless set. A
    /// further one is made when the peer allows no more streams on the others,
    /// and closed when it was not used for 30 s.
    pub max_connections_per_instance: NonZeroUsize,
    /// For how long an instance that joins others gets a growing share of the
    /// load, from a tenth of its weight to all of it, under a policy that
    /// heeds weights (`weighted`, `least_request`); 10 s unless set, 0 for
    /// not at all.
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
    /// The defaults, changed by what the environment sets: `CONSORT_DEADLINE`,
    /// `CONSORT_BALANCER`, `CONSORT_KEEPALIVE_TIME`,
    /// `CONSORT_KEEPALIVE_TIMEOUT`, `CONSORT_KEEPALIVE_MIN`,
    /// `CONSORT_CONNECT_TIMEOUT`, `CONSORT_SERVICE_CONFIG`. A variable that is empty counts as unset.
    ///
    /// # Errors
    /// When a variable's value cannot be used, or contradicts another's; names
    /// the variable, the value and what is expected.
    pub fn from_env() -> Result<Self, Error> {
        Self::read(&Environment::of_process())
    }

    pub(crate) fn read(env: &Environment<'_>) -> Result<Self, Error> {
        let default = Self::default();
        let balancer = env.parse("CONSORT_BALANCER")?;
        let service_config =
            env.parse_with("CONSORT_SERVICE_CONFIG", ServiceConfig::from_file_or_json)?.unwrap_or_default();
        if let (Some(asked), Some(other)) = (balancer, service_config.balancer)
            && asked != other
        {
            return Err(Error::Config(format!(
                "CONSORT_BALANCER: `{asked}` contradicts CONSORT_SERVICE_CONFIG, where loadBalancingConfig says `{other}`; set one of them"
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

    /// The same, where what the service config says too stands in place of
    /// what stood here.
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
        let lookup = move |asked: &str| (asked == name).then(|| value.into());
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
            let lookup = move |asked: &str| match asked {
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
