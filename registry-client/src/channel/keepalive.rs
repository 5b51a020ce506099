//! Whether the peer of a connection is still alive.
//!
//! Source: gRFC A8 (client-side keepalive). Unlike there, an idle connection
//! is pinged too where its peer accepts that: it stands in the ready set, and
//! the next call should not be the one to find out. And one with calls in
//! flight is pinged sooner, once for each silence, so that a call which sits on
//! a dead peer still has time for another.
//!
//! # What servers accept
//! By the defaults of grpc-go, grpc-java and gRPC core a server closes the
//! connection (GOAWAY `ENHANCE_YOUR_CALM`, `too_many_pings`) at the third ping
//! that comes sooner than 5 min after another, or than 2 h without a call,
//! unless it has sent data or headers in between. So a peer about which no
//! more is known gets two pings in a row, both kept for calls in flight that
//! are silent, and then one every 5.5 min while calls are in flight. When
//! those are spent, a machine that is gone is noticed by the operating system
//! (`dial::Liveness`), and a process that hangs by the
//! deadlines of the calls that it does not answer.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

mod limits;
mod received;

pub(super) use limits::{InstancePings, PingLimit, ServicePings};
pub(super) use received::{Goaway, Observed, Received};

use received::Seen;

/// How long a peer may be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeepaliveTimes {
    /// After how long a silence it is pinged.
    interval: Duration,
    /// The same while calls are in flight.
    in_flight: Duration,
    /// How long its answer may take.
    timeout: Duration,
}

impl KeepaliveTimes {
    pub(super) fn new(interval: Duration, timeout: Duration) -> Self {
        Self { interval, in_flight: interval.min(timeout) / 2, timeout }
    }
}

/// The streams of a connection, in one word so that a call pays for one
/// addition: how many there ever were, and how many are open.
#[derive(Debug, Default)]
pub(super) struct Streams(AtomicU64);

const BEGUN: u64 = 1 << 32;

impl Streams {
    /// One begins; how many there ever were before it, modulo 2³².
    pub(super) fn begin(&self) -> u32 {
        (self.0.fetch_add(BEGUN + 1, Relaxed) >> 32) as u32
    }

    pub(super) fn end(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    pub(super) fn open(&self) -> u32 {
        self.0.load(Relaxed) as u32
    }

    /// How many there ever were, modulo 2³².
    pub(super) fn begun(&self) -> u32 {
        (self.0.load(Relaxed) >> 32) as u32
    }
}

/// How many checks of a connection with calls in flight make up the silence
/// after which it is pinged; the silence is at least one check shorter than
/// that.
const CHECKS: u32 = 4;

/// How often the wait for an answer to a ping begins again because streams
/// make progress meanwhile: the answer may be queued behind data.
const MAX_EXTENSIONS: u8 = 3;

/// Pings a connection on which nothing arrives.
pub(super) struct Keepalive {
    ping: Option<h2::PingPong>,
    received: Arc<Received>,
    streams: Arc<Streams>,
    times: KeepaliveTimes,
    limit: PingLimit,
    /// Pings that may be sent at any pace before the peer sends data or
    /// headers.
    burst_left: u32,
    last_ping: Instant,
    mode: Mode,
    /// Whether the peer has read our settings.
    established: bool,
    /// How many streams there had been when it last answered: the silence of
    /// those is accounted for.
    settled: u32,
    timer: Pin<Box<Sleep>>,
}

#[derive(Debug)]
enum Mode {
    /// The peer has not acknowledged our settings yet.
    Connecting,
    /// No call is in flight, or the silence of those is accounted for.
    Idle,
    /// Calls are in flight; `silent` checks in a row found nothing new.
    InFlight { silent: u32 },
    /// The peer was pinged and has not answered.
    Pinged { extensions: u8 },
}

impl Keepalive {
    /// The peer has until `deadline` to acknowledge our settings, which proves
    /// that it lives as an answer to a ping does, and counts nowhere as one.
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
            mode: Mode::Connecting,
            established: false,
            settled: 0,
            timer: Box::pin(sleep_until(deadline)),
        }
    }

    /// Whether the peer has ever answered.
    pub(super) fn is_established(&self) -> bool {
        self.established
    }

    /// Ready when the peer has not answered in time; with how long it had. To be
    /// polled whenever the connection is.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        self.hear(cx);
        if matches!(self.mode, Mode::Idle) && self.is_owed_news() {
            self.enter(Mode::InFlight { silent: 0 }, self.times.in_flight / CHECKS);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let progress = self.received.take(Seen::PROGRESS);
            match self.mode {
                Mode::Connecting => return Poll::Ready(self.times.timeout),
                Mode::Pinged { extensions } if progress && extensions < MAX_EXTENSIONS => {
                    self.enter(Mode::Pinged { extensions: extensions + 1 }, self.times.timeout);
                }
                Mode::Pinged { extensions } => {
                    return Poll::Ready(self.times.timeout * (u32::from(extensions) + 1));
                }
                Mode::InFlight { .. } if self.streams.open() == 0 => self.wait(),
                Mode::InFlight { silent } if progress || silent + 2 < CHECKS => {
                    let silent = if progress { 0 } else { silent + 1 };
                    self.enter(Mode::InFlight { silent }, self.times.in_flight / CHECKS);
                }
                Mode::InFlight { .. } if self.burst_left > 0 || self.may_ping() => self.ping(),
                // There is no ping left for this silence.
                Mode::InFlight { .. } => {
                    self.settled = self.streams.begun();
                    self.wait();
                }
                Mode::Idle if progress || !self.may_ping() => self.wait(),
                Mode::Idle => self.ping(),
            }
        }
        Poll::Pending
    }

    /// Takes note of what has arrived.
    fn hear(&mut self, cx: &mut Context<'_>) {
        if !self.established && self.received.take(Seen::SETTINGS_ACK) {
            self.established = true;
            self.wait();
        }
        if !matches!(self.mode, Mode::Pinged { .. }) {
            if self.burst_left < self.limit.burst && self.received.take(Seen::CONTENT) {
                self.burst_left = self.limit.burst;
            }
            return;
        }
        if self.ping.as_mut().is_some_and(|ping| ping.poll_pong(cx).is_ready()) {
            self.settled = self.streams.begun();
            // That may have been sent before the peer counted the ping.
            self.received.take(Seen::CONTENT);
            self.wait();
        }
    }

    /// Whether streams are open that the last answer does not account for, or
    /// one made progress since: their next silence is a new one.
    fn is_owed_news(&self) -> bool {
        self.streams.open() > 0 && (self.streams.begun() != self.settled || self.received.has(Seen::PROGRESS))
    }

    /// Whether the last ping is so long ago that every peer accepts another.
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
                self.enter(Mode::Pinged { extensions: 0 }, self.times.timeout);
            }
            _ => self.wait(),
        }
    }

    fn wait(&mut self) {
        self.enter(Mode::Idle, self.times.interval);
    }

    fn enter(&mut self, mode: Mode, timer: Duration) {
        self.mode = mode;
        self.timer.as_mut().reset(Instant::now() + timer);
    }
}

#[cfg(test)]
mod tests;
