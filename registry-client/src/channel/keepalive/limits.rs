//! The rate of pings that the servers of a service accept.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tracing::{debug, warn};

use super::received::Goaway;
use crate::{
    channel::peer::Peer,
    instance::{Instance, KEEPALIVE_MIN, ServiceName},
};

/// The pings in a row that every server's default accepts without data or
/// headers of its own in between: grpc-go, grpc-java and gRPC core close the
/// connection at the third strike, and grpc-java counts the first ping as one.
const MAX_BURST: u32 = 2;
/// The least time between pings beyond those, while calls are in flight, by
/// every server's default.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(300);
/// The most complaints that are counted; a service with so many is pinged every
/// 13 days.
const MAX_COMPLAINTS: u32 = 12;

/// The limit on the pings of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::channel) struct PingLimit {
    /// Pings that may follow each other at any rate until the peer sends data
    /// or headers.
    pub(super) burst: u32,
    /// The least time between pings beyond the burst while calls are in flight.
    in_flight: Duration,
    /// The least time between pings while no call is in flight; `None` for no
    /// pings.
    idle: Option<Duration>,
    /// The complaints that the limit accounts for.
    complaints: u32,
}

impl PingLimit {
    /// The limit for a peer that accepts a ping every `accepted`, or for an
    /// unknown one, after so many complaints of its service.
    fn new(accepted: Option<Duration>, complaints: u32) -> Self {
        if let (Some(accepted), 0) = (accepted, complaints) {
            let interval = spaced(accepted);
            return Self { burst: MAX_BURST, in_flight: interval, idle: Some(interval), complaints };
        }
        // The first complaint is about the interval that was registered or
        // configured; the others are about the defaults that every server
        // should accept.
        let level = complaints - u32::from(accepted.is_some());
        Self {
            burst: MAX_BURST.saturating_sub(level),
            in_flight: spaced(DEFAULT_INTERVAL) * (1 << level),
            idle: None,
            complaints,
        }
    }

    /// The least time between two pings beyond the burst; `None` for no pings.
    pub(super) fn interval(&self, calls_in_flight: bool) -> Option<Duration> {
        if calls_in_flight { Some(self.in_flight) } else { self.idle }
    }
}

/// The interval plus a tenth, because pings may arrive closer together than
/// they were sent.
fn spaced(interval: Duration) -> Duration {
    interval.saturating_add(interval / 10)
}

/// The complaints about pings from the servers of one service. Shared by all
/// instances, because they run the same software, and kept for the lifetime of
/// the channel, because a closed connection is replaced at once.
#[derive(Debug)]
pub(in crate::channel) struct ServicePings {
    service: ServiceName,
    complaints: AtomicU32,
}

impl ServicePings {
    pub(in crate::channel) fn new(service: ServiceName) -> Self {
        Self { service, complaints: AtomicU32::new(0) }
    }
}

/// The rate of pings that one instance accepts, by its registration, by a
/// setting and by the complaints of its service.
#[derive(Debug)]
pub(in crate::channel) struct InstancePings {
    service: Arc<ServicePings>,
    /// The least time between pings that the instance accepts, in milliseconds.
    accepted: AtomicU64,
}

/// Stands for an unknown interval.
const UNKNOWN: u64 = u64::MAX;

impl InstancePings {
    pub(in crate::channel) fn new(service: Arc<ServicePings>) -> Self {
        Self { service, accepted: AtomicU64::new(UNKNOWN) }
    }

    /// Sets the interval of `instance`: the `configured` one, or else its
    /// registered [`KEEPALIVE_MIN`]. Applies to new connections.
    pub(in crate::channel) fn learn(&self, instance: &Instance, configured: Option<Duration>) {
        let registered = || {
            let text = instance.meta.get(KEEPALIVE_MIN)?;
            let parsed = crate::config::parse_duration(text);
            if let Err(error) = &parsed {
                debug!(instance = %instance.id, %error, "ignoring the meta `{KEEPALIVE_MIN}` of `{}`: {error}", instance.id);
            }
            parsed.ok()
        };
        let accepted = configured.or_else(registered);
        let millis = accepted.map_or(UNKNOWN, |a| u64::try_from(a.as_millis()).unwrap_or(UNKNOWN));
        self.accepted.store(millis, Relaxed);
    }

    /// The limit for a new connection.
    pub(in crate::channel) fn limit(&self) -> PingLimit {
        let accepted = Some(self.accepted.load(Relaxed)).filter(|millis| *millis != UNKNOWN);
        PingLimit::new(accepted.map(Duration::from_millis), self.service.complaints.load(Relaxed))
    }

    /// Records the GOAWAY with which `peer` closes a connection that kept to
    /// `limit`.
    pub(in crate::channel) fn closed(&self, peer: &Peer, goaway: &Goaway, limit: PingLimit) {
        if !goaway.is_too_many_pings() {
            return;
        }
        // Connections with the same limit have the same complaint.
        let known = limit.complaints;
        let next = (known + 1).min(MAX_COMPLAINTS);
        let first = self.service.complaints.compare_exchange(known, next, Relaxed, Relaxed).is_ok();
        if first && known == 0 {
            let service = &self.service.service;
            warn!(
                %service,
                instance = %peer,
                "a server of `{service}` closed a connection with GOAWAY too_many_pings; its instances are pinged less often from now on, \
                 so that a hung instance is detected later; set CONSORT_KEEPALIVE_MIN to the interval that they accept"
            );
        } else {
            debug!(instance = %peer, complaints = next, "a further connection was closed with GOAWAY too_many_pings");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn pings() -> (InstancePings, Peer) {
        let service = Arc::new(ServicePings::new("cart".parse().unwrap()));
        let address = "127.0.0.1:1".parse().unwrap();
        (InstancePings::new(service), Peer { id: crate::instance::InstanceId::new("cart-1"), address })
    }

    fn instance(meta: Option<&str>) -> Instance {
        let mut instance = Instance::new("cart-1", "127.0.0.1:1".parse().unwrap());
        instance.meta.extend(meta.map(|value| (KEEPALIVE_MIN.to_owned(), value.to_owned())));
        instance
    }

    #[test]
    fn a_setting_wins_over_the_registered_interval_and_nonsense_counts_as_unknown() {
        let second = Some(Duration::from_secs(1));
        let unknown = PingLimit::new(None, 0);
        for (meta, configured, limit) in [
            (None, None, unknown),
            (Some("soon"), None, unknown),
            (Some(""), None, unknown),
            (Some("1s"), None, PingLimit::new(second, 0)),
            (Some("1h"), second, PingLimit::new(second, 0)),
            (None, second, PingLimit::new(second, 0)),
        ] {
            let (pings, _) = pings();
            pings.learn(&instance(meta), configured);
            assert_eq!(pings.limit(), limit, "{meta:?} {configured:?}");
        }
        assert_eq!(unknown.interval(false), None);
        assert_eq!(PingLimit::new(second, 0).interval(false), Some(Duration::from_millis(1_100)));
    }

    /// gRFC A8.
    #[test]
    fn each_complaint_doubles_the_interval_and_takes_a_ping_from_the_burst() {
        let (pings, peer) = pings();
        let complaint = Goaway::new(h2::Reason::ENHANCE_YOUR_CALM, b"too_many_pings");
        for (burst, minutes) in [(2, 5), (1, 10), (0, 20), (0, 40)] {
            let limit = pings.limit();
            assert_eq!((limit.burst, limit.in_flight), (burst, spaced(MINUTE * minutes)));
            // Each of its connections says so.
            pings.closed(&peer, &complaint, limit);
            pings.closed(&peer, &complaint, limit);
        }
        for _ in 0..100 {
            pings.closed(&peer, &complaint, pings.limit());
        }
        assert!(pings.limit().in_flight < MINUTE * 60 * 24 * 30);
    }

    #[test]
    fn a_complaint_about_what_was_said_to_be_accepted_leaves_what_everybody_accepts() {
        let (pings, peer) = pings();
        pings.learn(&instance(Some("100ms")), None);
        let complaint = Goaway::new(h2::Reason::ENHANCE_YOUR_CALM, b"too_many_pings");
        pings.closed(&peer, &complaint, pings.limit());
        assert_eq!((pings.limit().burst, pings.limit().idle), (MAX_BURST, None));
        assert_eq!(pings.limit().in_flight, spaced(DEFAULT_INTERVAL));
    }
}
