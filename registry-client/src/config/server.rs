//! How a server serves, says that it is there, and stops.

use std::{str::FromStr, time::Duration};

use super::{AdmissionConfig, Environment, parse_duration};
use crate::{
    Error,
    consul::MAX_THRESHOLD,
    instance::{Address, Locality, ParseError},
};

/// How a [`Server`](crate::server::Server) serves, registers and stops. Every
/// limit is on unless it is changed.
///
/// A service that tonic generates refuses a request above 4 MiB itself unless its
/// `max_decoding_message_size` says otherwise: to take larger ones, raise that
/// and [`max_message_size`](Self::max_message_size).
///
/// # What one peer may hold
/// Streams and bytes are shared by all peers. A peer, which is an address,
/// may hold as much more as is still free: alone it gets half of it, two get a
/// third each, and so do the connections of one peer among each other.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Under which address the server registers; unless set (`ADVERTISE`), the
    /// address it listens on, or, where it listens on every interface, the one
    /// that other machines reach.
    pub advertise: Option<Advertise>,
    /// The share of the load that the server registers for, relative to the
    /// other instances, 1 to 65,535; 1 unless set (`CONSORT_WEIGHT`).
    /// [`Server::weight`](crate::server::Server::weight) overrides it. It
    /// holds while the check warns too. A channel of this library counts no
    /// more than 128, as Consul's own sidecars do.
    pub weight: u16,
    /// Where the server registers to run; nowhere unless set
    /// (`CONSORT_REGION`, and `CONSORT_ZONE` for a zone within it).
    /// [`Server::locality`](crate::server::Server::locality) overrides it.
    /// Consul before 1.16 does not know localities and is not told of it.
    pub locality: Option<Locality>,
    /// How often the registry asks for the server's health; 1 s unless set,
    /// and at least that, which is Consul's least.
    pub check_interval: Duration,
    /// How many checks in a row must succeed before the registry calls the
    /// server healthy after a failure, 1 to 10; 1 unless set
    /// (`CONSORT_SUCCESS_BEFORE_PASSING`). The first check after a
    /// registration decides alone, so a newcomer waits no longer for this.
    /// Consul before 1.7 does not know it and is not told of it.
    pub success_before_passing: u8,
    /// How many checks in a row must fail before the registry calls the server
    /// critical, 1 to 10; 1 unless set (`CONSORT_FAILURES_BEFORE_CRITICAL`). As
    /// `success_before_passing` otherwise. Each one more than 1 delays the
    /// news of a server that is gone by `check_interval`.
    pub failures_before_critical: u8,
    /// After how long without a passing check the registry forgets the
    /// instance, for example after a crash; 1 min unless set, and at least
    /// that, which is Consul's least. A server that lives registers again.
    pub deregister_after: Duration,
    /// How long the server still takes new calls after it has said that it is
    /// leaving, so that its callers hear of it; 2 s unless set
    /// (`CONSORT_DRAIN`).
    pub drain: Duration,
    /// How long, after that, calls under way may take to finish before they
    /// are cut off; 5 s unless set. With the two farewells to the registry, of
    /// at most 1 s each, the whole stop takes no more than 9 s, so that who
    /// kills after 10 s (Docker does) kills nothing.
    pub drain_timeout: Duration,
    /// The most calls at once on one connection; 1,000 unless set. A channel of
    /// this library carries all its calls to an instance on few connections,
    /// so the 100 that others suggest would throttle it; without any cap,
    /// one peer's open streams fill the memory.
    pub max_concurrent_streams: u32,
    /// The most calls at once over all connections; 3,000 unless set. A call above
    /// its peer's share of them is refused (`REFUSED_STREAM`, which gRPC reads as
    /// `UNAVAILABLE` and may send again).
    pub max_streams: usize,
    /// The most bytes of messages that the server holds for its peers: of
    /// requests that do not arrive in one piece, until they are answered, and of
    /// responses that are not taken at once; 48 MiB unless set. A request waits
    /// until there is room in its peer's share; a response for which there is
    /// none is cut off (`RESOURCE_EXHAUSTED`).
    pub max_buffered_bytes: usize,
    /// The most bytes of a request's message; 4 MiB unless set. The built-in
    /// services take at most 64 KiB.
    pub max_message_size: usize,
    /// How long a request's message may take to arrive, once its call or, on a
    /// stream, the message itself has begun; 10 s unless set. A call above it is
    /// answered `DEADLINE_EXCEEDED`.
    pub receive_timeout: Duration,
    /// How long a peer may take nothing of a response that is there for it; 30 s
    /// unless set. A stream above it is reset (`CANCELLED`).
    pub send_timeout: Duration,
    /// The most connections at once; 2,000 unless set, and at most three quarters
    /// of the files that the process may open (`ulimit -n`). Above its peer's
    /// share, a new one replaces that peer's quietest, or is closed where all are
    /// busy.
    pub max_connections: usize,
    /// After how long without a call a connection gets GOAWAY; 30 min unless set,
    /// `None` for never. A connection that carries a stream, such as a watch of the
    /// server's health, is in use.
    pub max_connection_idle: Option<Duration>,
    /// The most bytes of metadata that one request may carry; 16 KiB unless
    /// set.
    pub max_header_list_size: u32,
    /// How many calls one peer may cancel before the server has looked at them;
    /// 200 unless set. A peer above it loses its connection: that is how the
    /// "rapid reset" attack is stopped. Deadlines that expire in bulk stay
    /// below it.
    pub max_pending_resets: usize,
    /// How long a new connection may take to say that it speaks HTTP/2; 10 s
    /// unless set.
    pub handshake_timeout: Duration,
    /// How the server refuses calls when there are too many; `None` takes in
    /// whatever comes. On unless `CONSORT_ADMISSION` is `off`.
    pub admission: Option<AdmissionConfig>,
    /// How often an idle connection is asked whether its peer still lives;
    /// 30 s unless set.
    pub keepalive_time: Duration,
    /// How long the response to that may take before the connection is closed;
    /// 10 s unless set.
    pub keepalive_timeout: Duration,
    /// True if a request may be compressed with gzip, and a response's messages
    /// of 1 KiB and more are, for callers that take it
    /// (`grpc-accept-encoding`); on unless set (`CONSORT_GZIP`). Off, what each
    /// service was made with holds. Switch it off where a message holds a
    /// secret beside what an attacker chose, and its length can be seen.
    pub gzip: bool,
    /// The most bytes that a message may have once it is decompressed; 4 MiB
    /// unless set, which is a service's own limit unless it is made with another
    /// `max_decoding_message_size`.
    pub max_decompressed_size: usize,
    /// The age, a tenth more or less, at which a connection gets GOAWAY, so that
    /// its peer opens another; `None`, which is the default of gRPC's other
    /// servers too, for no limit. `None` unless set
    /// (`CONSORT_MAX_CONNECTION_AGE`).
    ///
    /// For callers that are no channel of this library: one that reaches the
    /// instances through a load balancer or by DNS finds new ones only when it
    /// connects anew, and 30 min will do. No call fails by it that ends within
    /// [`max_connection_age_grace`](Self::max_connection_age_grace).
    pub max_connection_age: Option<Duration>,
    /// How long the calls of a connection that has become too old may take to
    /// finish before it is closed; 10 min unless set
    /// (`CONSORT_MAX_CONNECTION_AGE_GRACE`). `None` waits for as long as they
    /// take, and streams that never end keep their connections.
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
    /// The defaults, changed by what the environment sets: `ADVERTISE`,
    /// `CONSORT_WEIGHT` (1 to 65535), `CONSORT_REGION` and `CONSORT_ZONE`
    /// (names), `CONSORT_SUCCESS_BEFORE_PASSING` and
    /// `CONSORT_FAILURES_BEFORE_CRITICAL` (1 to 10),
    /// `CONSORT_DRAIN`, `CONSORT_ADMISSION` (`on` or `off`),
    /// `CONSORT_MAX_CONCURRENCY` (calls of one method, at least 1),
    /// `CONSORT_GZIP` (`on` or `off`), `CONSORT_MAX_CONNECTION_AGE` and `CONSORT_MAX_CONNECTION_AGE_GRACE`
    /// (durations, or `infinite`). A variable that is empty counts as unset.
    ///
    /// # Errors
    /// When a variable's value cannot be used; names the variable, the value
    /// and what is expected.
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

/// A bound that can be switched off.
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

/// The address under which a server is to be registered: `HOST`, with the port
/// it listens on, or `HOST:PORT`.
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
        // First without a port, for the last group of an IPv6 address looks like one.
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
    fn an_address_that_nobody_can_dial_is_refused() {
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
            let lookup = move |asked: &str| match asked {
                "CONSORT_REGION" if name == "CONSORT_ZONE" => Some("eu".into()),
                asked => (asked == name).then(|| value.into()),
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
