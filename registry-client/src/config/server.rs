//! The settings of servers.

use std::{str::FromStr, time::Duration};

use super::{AdmissionConfig, Environment, parse_duration};
use crate::{
    Error,
    consul::MAX_THRESHOLD,
    instance::{Address, Locality, ParseError},
};

/// The settings of a [`Server`](crate::server::Server): how it serves,
/// registers and stops. Every limit is on by default.
///
/// A service that tonic generates rejects a request above its own
/// `max_decoding_message_size` of 4 MiB: to accept larger ones, raise that and
/// [`max_message_size`](Self::max_message_size).
///
/// # What one peer may hold
/// Streams and bytes are shared by all peers. A peer, which is an address, may
/// hold as much again as is still free: alone it gets half, two get a third
/// each, and likewise the connections of one peer among each other.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerConfig {
    /// The address that the server registers; unless set (`ADVERTISE`), the one
    /// it listens on, or, where it listens on every interface, the one that
    /// other machines reach.
    pub advertise: Option<Advertise>,
    /// The share of the load that the server registers for, relative to the
    /// other instances, 1 to 65,535; 1 unless set (`CONSORT_WEIGHT`).
    /// [`Server::weight`](crate::server::Server::weight) overrides it. It holds
    /// while the check warns too. A channel of this library caps it at 128, as
    /// Consul's own sidecars do.
    pub weight: u16,
    /// The locality that the server registers; none unless set
    /// (`CONSORT_REGION`, and `CONSORT_ZONE` for a zone within it).
    /// [`Server::locality`](crate::server::Server::locality) overrides it.
    /// Consul before 1.16 has no localities and does not get it.
    pub locality: Option<Locality>,
    /// The interval of the registry's health check; 1 s unless set, and at
    /// least that, which is Consul's minimum.
    pub check_interval: Duration,
    /// The checks in a row that must succeed before the registry lists the
    /// server as passing after a failure, 1 to 10; 1 unless set
    /// (`CONSORT_SUCCESS_BEFORE_PASSING`). The first check after a registration
    /// decides alone, so it does not delay a new server. Consul before 1.7 does
    /// not have it and does not get it.
    pub success_before_passing: u8,
    /// The checks in a row that must fail before the registry lists the server
    /// as critical, 1 to 10; 1 unless set (`CONSORT_FAILURES_BEFORE_CRITICAL`).
    /// Otherwise like `success_before_passing`. Each one beyond the first
    /// delays the detection of a server that is gone by `check_interval`.
    pub failures_before_critical: u8,
    /// The time without a passing check after which the registry deregisters
    /// the instance, for example after a crash; 1 min unless set, and at least
    /// that, which is Consul's minimum. A server that is alive registers again.
    pub deregister_after: Duration,
    /// The time for which the server still accepts new calls after it has
    /// announced its shutdown, so that its callers learn of it; 2 s unless set
    /// (`CONSORT_DRAIN`).
    pub drain: Duration,
    /// The time that calls in flight have to finish after that, before they are
    /// cut off; 5 s unless set. With the maintenance mode and the
    /// deregistration, of at most 1 s each, the whole shutdown takes no more
    /// than 9 s, less than the 10 s after which Docker kills.
    pub drain_timeout: Duration,
    /// The most concurrent calls on one connection; 1,000 unless set. A channel
    /// of this library carries all its calls to an instance on few connections,
    /// which the common limit of 100 would throttle; without a limit, one
    /// peer's open streams would fill the memory.
    pub max_concurrent_streams: u32,
    /// The most concurrent calls over all connections; 3,000 unless set. A call
    /// above its peer's share is refused (`REFUSED_STREAM`, which gRPC reads as
    /// `UNAVAILABLE` and may retry).
    pub max_streams: usize,
    /// The most bytes of messages that the server buffers for its peers: of
    /// requests that arrive in parts, until they are answered, and of responses
    /// that are not read at once; 48 MiB unless set. A request waits until its
    /// peer's share allows it; a response above the share is cut off
    /// (`RESOURCE_EXHAUSTED`).
    pub max_buffered_bytes: usize,
    /// The most bytes of a request's message; 4 MiB unless set. The built-in
    /// services take at most 64 KiB.
    pub max_message_size: usize,
    /// The longest time for a request's message to arrive, after its call or,
    /// on a stream, the message itself has begun; 10 s unless set. Then the
    /// call ends with `DEADLINE_EXCEEDED`.
    pub receive_timeout: Duration,
    /// The longest time for which a peer may read nothing of a pending
    /// response; 30 s unless set. Then the stream is reset (`CANCELLED`).
    pub send_timeout: Duration,
    /// The most concurrent connections; 2,000 unless set, and at most three
    /// quarters of the files that the process may open (`ulimit -n`). Above its
    /// peer's share, a new connection replaces the peer's least recently used
    /// one, or is closed where all are busy.
    pub max_connections: usize,
    /// The time without a call after which a connection gets GOAWAY; 30 min
    /// unless set, `None` for never. A connection with an open stream, such as
    /// a health watch, is in use.
    pub max_connection_idle: Option<Duration>,
    /// The most bytes of metadata that one request may carry; 16 KiB unless
    /// set.
    pub max_header_list_size: u32,
    /// The most calls that one peer may cancel before the server has handled
    /// them; 200 unless set. A connection above it is closed, which stops the
    /// "rapid reset" attack. Deadlines that expire together stay below it.
    pub max_pending_resets: usize,
    /// The longest time for the HTTP/2 preface of a new connection; 10 s unless
    /// set.
    pub handshake_timeout: Duration,
    /// Admission control, which rejects calls when there are too many; `None`
    /// is off. On unless `CONSORT_ADMISSION` is `off`.
    pub admission: Option<AdmissionConfig>,
    /// The interval of pings on an idle connection; 30 s unless set.
    pub keepalive_time: Duration,
    /// The longest wait for a PING ACK before the connection is closed; 10 s
    /// unless set.
    pub keepalive_timeout: Duration,
    /// True if requests may be compressed with gzip, and response messages of 1
    /// KiB and more are compressed for callers that accept it
    /// (`grpc-accept-encoding`); on unless set (`CONSORT_GZIP`). Off, the
    /// settings of each service hold. Switch it off where a message has a
    /// secret beside data of an attacker who can see its length.
    pub gzip: bool,
    /// The most bytes of a decompressed message; 4 MiB unless set, which is
    /// also the default of a service's `max_decoding_message_size`.
    pub max_decompressed_size: usize,
    /// The age, plus or minus a tenth, at which a connection gets GOAWAY, so
    /// that its peer opens another; `None` for no limit, which is also the
    /// default of gRPC's other servers. `None` unless set
    /// (`CONSORT_MAX_CONNECTION_AGE`).
    ///
    /// For callers without a channel of this library: one that uses a load
    /// balancer or DNS finds new instances only when it connects again; 30 min
    /// is a good value. It fails no call that ends within
    /// [`max_connection_age_grace`](Self::max_connection_age_grace).
    pub max_connection_age: Option<Duration>,
    /// The time that the calls of an aged connection have to finish before it
    /// is closed; 10 min unless set (`CONSORT_MAX_CONNECTION_AGE_GRACE`).
    /// `None` waits without limit, and streams that never end keep their
    /// connections.
    pub max_connection_age_grace: Option<Duration>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            advertise: None,
            weight: 1,
            locality: None,
            check_interval: Duration::from_secs(1),
            success_before_passing: 1,
            failures_before_critical: 1,
            deregister_after: Duration::from_secs(60),
            drain: Duration::from_secs(2),
            drain_timeout: Duration::from_secs(5),
            max_concurrent_streams: 1_000,
            max_streams: 3_000,
            max_buffered_bytes: 48 * 1024 * 1024,
            max_message_size: 4 * 1024 * 1024,
            receive_timeout: Duration::from_secs(10),
            send_timeout: Duration::from_secs(30),
            max_connections: 2_000,
            max_connection_idle: Some(Duration::from_secs(30 * 60)),
            max_header_list_size: 16 * 1024,
            max_pending_resets: 200,
            handshake_timeout: Duration::from_secs(10),
            admission: Some(AdmissionConfig::default()),
            keepalive_time: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            gzip: true,
            max_decompressed_size: 4 * 1024 * 1024,
            max_connection_age: None,
            max_connection_age_grace: Some(Duration::from_secs(10 * 60)),
        }
    }
}

impl ServerConfig {
    /// The defaults, overridden by the environment: `ADVERTISE`,
    /// `CONSORT_WEIGHT` (1 to 65535), `CONSORT_REGION` and `CONSORT_ZONE`
    /// (names), `CONSORT_SUCCESS_BEFORE_PASSING` and
    /// `CONSORT_FAILURES_BEFORE_CRITICAL` (1 to 10), `CONSORT_DRAIN`,
    /// `CONSORT_ADMISSION` (`on` or `off`), `CONSORT_MAX_CONCURRENCY` (calls of
    /// one method, at least 1), `CONSORT_GZIP` (`on` or `off`),
    /// `CONSORT_MAX_CONNECTION_AGE` and `CONSORT_MAX_CONNECTION_AGE_GRACE`
    /// (durations, or `infinite`). A variable that is empty counts as unset.
    ///
    /// # Errors
    /// When the value of a variable is invalid; the error names the variable,
    /// the value and what is expected.
    pub fn from_env() -> Result<Self, Error> {
        Self::read(&Environment::of_process())
    }

    pub(crate) fn read(env: &Environment<'_>) -> Result<Self, Error> {
        let default = Self::default();
        Ok(Self {
            advertise: env.parse("ADVERTISE")?,
            weight: env.parse_with("CONSORT_WEIGHT", weight)?.unwrap_or(default.weight),
            locality: locality(env)?,
            success_before_passing: threshold(env, "CONSORT_SUCCESS_BEFORE_PASSING")?
                .unwrap_or(default.success_before_passing),
            failures_before_critical: threshold(env, "CONSORT_FAILURES_BEFORE_CRITICAL")?
                .unwrap_or(default.failures_before_critical),
            drain: env.duration("CONSORT_DRAIN")?.unwrap_or(default.drain),
            admission: admission(env)?,
            gzip: env.switch("CONSORT_GZIP")?.unwrap_or(default.gzip),
            max_connection_age: age(env, "CONSORT_MAX_CONNECTION_AGE")?.unwrap_or(default.max_connection_age),
            max_connection_age_grace: age(env, "CONSORT_MAX_CONNECTION_AGE_GRACE")?
                .unwrap_or(default.max_connection_age_grace),
            ..default
        })
    }
}

fn weight(text: &str) -> Result<u16, ParseError> {
    match text.parse() {
        Ok(weight @ 1..) => Ok(weight),
        _ => Err(ParseError(format!("`{text}` is not a weight; a number from 1 to 65535 is expected"))),
    }
}

fn locality(env: &Environment<'_>) -> Result<Option<Locality>, Error> {
    let name = |name| Ok::<_, Error>(env.parse_with(name, |text| Ok(text.to_owned()))?.unwrap_or_default());
    let (region, zone) = (name("CONSORT_REGION")?, name("CONSORT_ZONE")?);
    if region.is_empty() && zone.is_empty() {
        return Ok(None);
    }
    let unusable = |why| Error::Config(format!("CONSORT_REGION, CONSORT_ZONE: {why}"));
    Locality::new(&region, &zone).map(Some).map_err(unusable)
}

/// A number of checks in a row.
fn threshold(env: &Environment<'_>, name: &str) -> Result<Option<u8>, Error> {
    env.parse_with(name, |text| match text.parse() {
        Ok(threshold @ 1..=MAX_THRESHOLD) => Ok(threshold),
        _ => Err(ParseError(format!(
            "`{text}` is not a number of checks; one from 1 to {MAX_THRESHOLD} is expected"
        ))),
    })
}

/// An age, or `infinite` for none.
fn age(env: &Environment<'_>, name: &str) -> Result<Option<Option<Duration>>, Error> {
    env.parse_with(name, |text| match text {
        "infinite" => Ok(None),
        text => match parse_duration(text) {
            Ok(Duration::ZERO) | Err(_) => Err(ParseError(format!(
                "`{text}` is not how long a connection may last; a duration above 0 is expected, such as 30m, or `infinite`"
            ))),
            Ok(age) => Ok(Some(age)),
        },
    })
}

fn admission(env: &Environment<'_>) -> Result<Option<AdmissionConfig>, Error> {
    let on = env.switch("CONSORT_ADMISSION")?;
    let most = env.parse_with("CONSORT_MAX_CONCURRENCY", |text| match text.parse::<u32>() {
        Ok(most @ 1..) => Ok(most as usize),
        _ => Err(ParseError(format!("`{text}` is not a number of calls, at least 1"))),
    })?;
    if on == Some(false) {
        return Ok(None);
    }
    let mut admission = AdmissionConfig::default();
    if let Some(most) = most {
        admission.max = most;
        admission.initial = most;
    }
    Ok(Some(admission))
}

/// The address that a server registers: `HOST`, with the port it listens on, or
/// `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertise {
    host: String,
    port: Option<u16>,
}

impl Advertise {
    /// The address of a server that listens on `port`.
    pub(crate) fn address(&self, port: u16) -> Result<Address, ParseError> {
        Address::new(&self.host, self.port.unwrap_or(port))
    }
}

impl FromStr for Advertise {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let with_port =
            || text.parse().map(|a: Address| Self { host: a.host().into(), port: Some(a.port()) });
        // First without a port, because the last group of an IPv6 address looks
        // like one.
        let bare = Address::new(text, 1).map(|a| Self { host: a.host().into(), port: None });
        bare.or_else(|_| with_port()).map_err(|_| {
            ParseError(format!(
                "`{text}` is not an address that others can dial; HOST or HOST:PORT is expected"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertised_address_may_leave_the_port_to_the_listener() {
        for (text, expected) in [
            ("10.0.0.7", "10.0.0.7:4000"),
            ("10.0.0.7:81", "10.0.0.7:81"),
            ("cart.example", "cart.example:4000"),
            ("[::1]:81", "[::1]:81"),
            ("[::1]", "[::1]:4000"),
            ("fe80::1:80", "[fe80::1:80]:4000"),
        ] {
            let advertise: Advertise = text.parse().unwrap();
            assert_eq!(advertise.address(4000).unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn an_address_that_cannot_be_dialled_is_refused() {
        for bad in ["0.0.0.0", "0.0.0.0:80", "::", "[::]:80", "host:0", "host:99999", "http://host", ""] {
            assert!(bad.parse::<Advertise>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_environment_changes_the_defaults() {
        let lookup = |name: &str| match name {
            "CONSORT_DRAIN" => Some("0s".into()),
            "ADVERTISE" => Some("10.0.0.7".into()),
            _ => None,
        };
        let config = ServerConfig::read(&Environment::new(&lookup)).unwrap();
        assert_eq!(config.drain, Duration::ZERO);
        assert_eq!(config.advertise, Some("10.0.0.7".parse().unwrap()));
    }

    #[test]
    fn admission_can_be_bounded_and_switched_off() {
        let read = |on: &'static str, most: &'static str| {
            let lookup = move |name: &str| match name {
                "CONSORT_ADMISSION" => Some(on.into()),
                "CONSORT_MAX_CONCURRENCY" => Some(most.into()),
                _ => None,
            };
            ServerConfig::read(&Environment::new(&lookup)).map_err(|e| e.to_string())
        };
        assert_eq!(read("", "").unwrap().admission, Some(AdmissionConfig::default()));
        assert_eq!(read("off", "").unwrap().admission, None);
        let bounded = read("on", "50").unwrap().admission.unwrap();
        assert_eq!((bounded.max, bounded.initial), (50, 50));
        assert!(read("yes", "").unwrap_err().starts_with("CONSORT_ADMISSION: `yes`"));
        assert!(read("on", "0").unwrap_err().starts_with("CONSORT_MAX_CONCURRENCY: `0`"));
    }

    #[test]
    fn the_age_of_connections_is_bounded_when_it_is_said_to_be() {
        let read = |age: &'static str, grace: &'static str| {
            let lookup = move |name: &str| match name {
                "CONSORT_MAX_CONNECTION_AGE" => Some(age.into()),
                "CONSORT_MAX_CONNECTION_AGE_GRACE" => Some(grace.into()),
                _ => None,
            };
            let config = ServerConfig::read(&Environment::new(&lookup)).map_err(|e| e.to_string())?;
            Ok::<_, String>((config.max_connection_age, config.max_connection_age_grace))
        };
        let minutes = |minutes: u64| Some(Duration::from_secs(60 * minutes));
        assert_eq!(read("", ""), Ok((None, minutes(10))));
        assert_eq!(read("30m", "infinite"), Ok((minutes(30), None)));
        assert_eq!(read("infinite", "1m"), Ok((None, minutes(1))));
        for bad in ["0s", "off", "-1s", "soon"] {
            let said = read(bad, "").unwrap_err();
            assert!(
                said.starts_with(&format!("CONSORT_MAX_CONNECTION_AGE: `{bad}` is not how long")),
                "{said}"
            );
        }
    }

    #[test]
    fn what_is_registered_is_read_and_bounded() {
        let read = |name: &'static str, value: &'static str| {
            let lookup = move |variable: &str| match variable {
                "CONSORT_REGION" if name == "CONSORT_ZONE" => Some("eu".into()),
                variable => (variable == name).then(|| value.into()),
            };
            ServerConfig::read(&Environment::new(&lookup)).map_err(|e| e.to_string())
        };
        assert_eq!(read("", "").unwrap(), ServerConfig::default());
        assert_eq!(read("CONSORT_WEIGHT", "65535").unwrap().weight, 65_535);
        let locality = |region, zone| Some(Locality::new(region, zone).unwrap());
        assert_eq!(read("CONSORT_REGION", "eu").unwrap().locality, locality("eu", ""));
        assert_eq!(read("CONSORT_ZONE", "a").unwrap().locality, locality("eu", "a"));
        assert_eq!(read("CONSORT_SUCCESS_BEFORE_PASSING", "10").unwrap().success_before_passing, 10);
        assert_eq!(read("CONSORT_FAILURES_BEFORE_CRITICAL", "2").unwrap().failures_before_critical, 2);
        for (name, value, words) in [
            ("CONSORT_WEIGHT", "0", "`0` is not a weight"),
            ("CONSORT_WEIGHT", "65536", "`65536` is not a weight"),
            ("CONSORT_SUCCESS_BEFORE_PASSING", "0", "`0` is not a number of checks"),
            ("CONSORT_FAILURES_BEFORE_CRITICAL", "11", "one from 1 to 10"),
            ("CONSORT_REGION", "e\nu", "control character"),
        ] {
            let said = read(name, value).unwrap_err();
            assert!(said.starts_with(name) && said.contains(words), "{said}");
        }
    }

    #[test]
    fn a_zone_needs_its_region() {
        let lookup = |name: &str| (name == "CONSORT_ZONE").then(|| "a".into());
        let said = ServerConfig::read(&Environment::new(&lookup)).unwrap_err().to_string();
        assert!(said.starts_with("CONSORT_REGION") && said.contains("zone `a` needs the region"), "{said}");
    }

    #[test]
    fn a_bad_address_is_named_with_its_variable() {
        let lookup = |name: &str| (name == "ADVERTISE").then(|| "0.0.0.0:80".into());
        let said = ServerConfig::read(&Environment::new(&lookup)).unwrap_err().to_string();
        assert!(said.starts_with("ADVERTISE: `0.0.0.0:80` is not"), "{said}");
    }
}
