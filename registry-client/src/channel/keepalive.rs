//! HTTP/2 keepalive: detects a peer that is no longer alive.
//!
//! Source: gRFC A8 (client-side keepalive). Unlike there, an idle connection is
//! pinged too where its peer accepts that: it is in the ready set, and the next
//! call should not find out that it is dead. A connection with calls in flight is
//! pinged sooner, once for each silence, so that a call on a dead peer still has
//! time for another attempt.
//!
//! # What servers accept
//! By the defaults of grpc-go, grpc-java and gRPC core a server closes the
//! connection (GOAWAY `ENHANCE_YOUR_CALM`, `too_many_pings`) at the third ping
//! that comes sooner than 5 min after another, or than 2 h without a call,
//! unless it has sent data or headers in between. By default a peer therefore
//! gets two pings in a row, both reserved for calls in flight that are silent,
//! and then one every 5.5 min while calls are in flight. When those are spent,
//! the operating system detects a machine that is gone (`dial::Liveness`), and
//! the deadlines of calls detect a process that hangs.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

mod limits;
mod received;

pub(super) use limits::{InstancePings, PingLimit, ServicePings};
pub(super) use received::{Goaway, ObservedIo, Received};

use received::FrameKinds;

use super::streams::Streams;

/// The times after which a silent peer is pinged, and closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeepaliveTimes {
    /// The silence after which an idle connection is pinged.
    interval: Duration,
    /// The silence after which a connection with calls in flight is pinged.
    in_flight: Duration,
    /// The longest wait for a PING ACK.
    timeout: Duration,
}

impl KeepaliveTimes {
    pub(super) fn new(interval: Duration, timeout: Duration) -> Self {
        Self { interval, in_flight: interval.min(timeout) / 2, timeout }
    }
}

/// The checks that divide the silence after which a connection with calls in
/// flight is pinged; the silence may be one check shorter.
const CHECKS_PER_SILENCE: u32 = 4;

/// The most extensions of the wait for a PING ACK while streams make progress:
/// the ACK may be queued behind data.
const MAX_EXTENSIONS: u8 = 3;

/// The keepalive of one connection.
pub(super) struct Keepalive {
    ping: Option<h2::PingPong>,
    received: Arc<Received>,
    streams: Arc<Streams>,
    times: KeepaliveTimes,
    limit: PingLimit,
    /// Pings left that may be sent at any rate before the peer sends data or
    /// headers.
    burst_left: u32,
    last_ping: Instant,
    state: KeepaliveState,
    /// True if the peer has acknowledged our settings.
    established: bool,
    /// The total of streams at the last PING ACK: their silence is explained.
    checked_streams: u32,
    timer: Pin<Box<Sleep>>,
}

#[derive(Debug)]
enum KeepaliveState {
    /// Waiting for the acknowledgement of our settings.
    Connecting,
    /// No call is in flight, or the silence of all is explained.
    Idle,
    /// Calls are in flight; `silent` checks in a row found no progress.
    InFlight { silent: u32 },
    /// A ping was sent and not acknowledged.
    Pinged { extensions: u8 },
}

impl Keepalive {
    /// A keepalive whose peer has until `deadline` to acknowledge our settings.
    /// That proves that the peer is alive as a PING ACK does, and no server
    /// counts it as a ping.
    pub(super) fn new(
        ping: Option<h2::PingPong>,
        received: Arc<Received>,
        streams: Arc<Streams>,
        (times, limit): (KeepaliveTimes, PingLimit),
        deadline: Instant,
    ) -> Self {
        Self {
            ping,
            received,
            streams,
            times,
            limit,
            burst_left: limit.burst,
            // grpc-java counts from the beginning of the connection.
            last_ping: Instant::now(),
            state: KeepaliveState::Connecting,
            established: false,
            checked_streams: 0,
            timer: Box::pin(sleep_until(deadline)),
        }
    }

    /// Returns whether the peer has acknowledged our settings.
    pub(super) fn is_established(&self) -> bool {
        self.established
    }

    /// Ready when the peer did not respond in time; with the time that it had.
    /// Must be polled whenever the connection is.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        self.read_received(cx);
        if matches!(self.state, KeepaliveState::Idle) && self.has_unchecked_streams() {
            self.enter(KeepaliveState::InFlight { silent: 0 }, self.times.in_flight / CHECKS_PER_SILENCE);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let progress = self.received.take(FrameKinds::PROGRESS);
            match self.state {
                KeepaliveState::Connecting => return Poll::Ready(self.times.timeout),
                KeepaliveState::Pinged { extensions } if progress && extensions < MAX_EXTENSIONS => {
                    self.enter(KeepaliveState::Pinged { extensions: extensions + 1 }, self.times.timeout);
                }
                KeepaliveState::Pinged { extensions } => {
                    return Poll::Ready(self.times.timeout * (u32::from(extensions) + 1));
                }
                KeepaliveState::InFlight { .. } if self.streams.open() == 0 => self.enter_idle(),
                KeepaliveState::InFlight { silent } if progress || silent + 2 < CHECKS_PER_SILENCE => {
                    let silent = if progress { 0 } else { silent + 1 };
                    self.enter(
                        KeepaliveState::InFlight { silent },
                        self.times.in_flight / CHECKS_PER_SILENCE,
                    );
                }
                KeepaliveState::InFlight { .. } if self.burst_left > 0 || self.may_ping() => self.ping(),
                // No ping is left for this silence.
                KeepaliveState::InFlight { .. } => {
                    self.checked_streams = self.streams.begun();
                    self.enter_idle();
                }
                KeepaliveState::Idle if progress || !self.may_ping() => self.enter_idle(),
                KeepaliveState::Idle => self.ping(),
            }
        }
        Poll::Pending
    }

    /// Reads the kinds of frames that have arrived.
    fn read_received(&mut self, cx: &mut Context<'_>) {
        if !self.established && self.received.take(FrameKinds::SETTINGS_ACK) {
            self.established = true;
            self.enter_idle();
        }
        if !matches!(self.state, KeepaliveState::Pinged { .. }) {
            if self.burst_left < self.limit.burst && self.received.take(FrameKinds::CONTENT) {
                self.burst_left = self.limit.burst;
            }
            return;
        }
        if self.ping.as_mut().is_some_and(|ping| ping.poll_pong(cx).is_ready()) {
            self.checked_streams = self.streams.begun();
            // The content may have been sent before the peer counted the ping.
            self.received.take(FrameKinds::CONTENT);
            self.enter_idle();
        }
    }

    /// Returns whether streams have begun or made progress since the last PING
    /// ACK: their silence is not explained.
    fn has_unchecked_streams(&self) -> bool {
        self.streams.open() > 0
            && (self.streams.begun() != self.checked_streams || self.received.has(FrameKinds::PROGRESS))
    }

    /// Returns whether the last ping is old enough for the peer to accept
    /// another.
    fn may_ping(&self) -> bool {
        let interval = self.limit.interval(self.streams.open() > 0);
        interval.is_some_and(|interval| self.last_ping.elapsed() >= interval)
    }

    fn ping(&mut self) {
        if !self.may_ping() {
            self.burst_left = self.burst_left.saturating_sub(1);
        }
        match self.ping.as_mut().map(|ping| ping.send_ping(h2::Ping::opaque())) {
            Some(Ok(())) => {
                self.last_ping = Instant::now();
                self.enter(KeepaliveState::Pinged { extensions: 0 }, self.times.timeout);
            }
            _ => self.enter_idle(),
        }
    }

    fn enter_idle(&mut self) {
        self.enter(KeepaliveState::Idle, self.times.interval);
    }

    fn enter(&mut self, state: KeepaliveState, timer: Duration) {
        self.state = state;
        self.timer.as_mut().reset(Instant::now() + timer);
    }
}

#[cfg(test)]
mod tests;
