//! TCP connections to instances and agents, by every address of a host name, so
//! that an address that drops packets does not block the others.
//!
//! Source: RFC 8305 ("Happy Eyeballs", version 2). Address families alternate,
//! beginning with the one that the operating system prefers; the next attempt
//! starts 250 ms after the previous one, or when that has failed; the first to
//! connect wins. Unlike there, IPv4 and IPv6 addresses are looked up together,
//! by the operating system.

use std::{
    fmt::Write as _,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until, timeout_at},
};
use tracing::debug;

/// The most addresses of one name that are tried; others are ignored.
const MAX_ADDRESSES: usize = 128;
/// The most concurrent attempts.
const MAX_ATTEMPTS: u32 = 16;
/// The delay between attempts. RFC 8305, section 5.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// The least delay between attempts, however little time is left. RFC 8305,
/// section 8.
const MIN_ATTEMPT_DELAY: Duration = Duration::from_millis(10);
/// The most addresses that an error names.
const MAX_NAMED: usize = 5;

/// Connects to `host`, an IP address or a name, by `deadline`; with
/// `TCP_NODELAY`.
///
/// # Errors
/// When the name has no address, or none of them accepted the connection in
/// time; the error names each address with its reason.
///
/// # Cancel safety
/// Dropping the future closes every socket.
pub(crate) async fn connect(host: &str, port: u16, deadline: Instant) -> io::Result<TcpStream> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return connect_any(host, [SocketAddr::new(ip, port)], deadline).await;
    }
    let began = Instant::now();
    let found = timeout_at(deadline, tokio::net::lookup_host((host, port))).await.map_err(|_| {
        let text = format!("`{host}` was not looked up within {:?}", rounded(began.elapsed()));
        io::Error::new(io::ErrorKind::TimedOut, text)
    })?;
    let found = found
        .map_err(|error| io::Error::new(error.kind(), format!("`{host}` cannot be looked up: {error}")))?;
    connect_any(host, found, deadline).await
}

/// Connects to one of `addresses`, which `host` has, as [`connect`] does.
pub(crate) async fn connect_any(
    host: &str,
    addresses: impl IntoIterator<Item = SocketAddr>,
    deadline: Instant,
) -> io::Result<TcpStream> {
    let open = async |address| {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    race(interleave(addresses), deadline, open).await.map_err(|failures| error(host, failures))
}

/// The operating system's detection of dead connections: TCP keepalive and user
/// timeout.
///
/// It detects machines and networks that are gone, not processes that hang, and
/// costs the peer's process nothing. Where HTTP/2 pings are limited, it is the
/// only detection for a connection that is idle, or silent for long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Liveness {
    idle: Duration,
    timeout: Duration,
}

/// The probes that the operating system sends before it gives up.
const PROBES: u32 = 3;
/// The default of operating systems; some accept no more than 9 h.
const MAX_IDLE: Duration = Duration::from_secs(2 * 3600);

impl Liveness {
    /// Probes after `idle` without a byte, and gives up when there is no
    /// response for about `timeout` more: at least three probes, a second or
    /// more apart, because one may be lost.
    pub(crate) fn new(idle: Duration, timeout: Duration) -> Self {
        Self { idle: idle.min(MAX_IDLE), timeout: timeout.min(MAX_IDLE) }
    }

    /// The idle time and the interval, in whole seconds as the kernel counts.
    fn times(self) -> (Duration, Duration) {
        let whole = |time: Duration| Duration::from_secs(time.as_secs_f64().ceil().max(1.0) as u64);
        (whole(self.idle), whole(self.timeout / PROBES))
    }

    /// The time for which the kernel resends unacknowledged data (gRFC A18).
    /// Below the time of the probes it would give up at the first lost one.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn user_timeout(self) -> Duration {
        let (idle, interval) = self.times();
        idle + interval * PROBES
    }

    /// Sets the options on a connection; a failure is ignored.
    pub(crate) fn apply(self, stream: &TcpStream) {
        if let Err(error) = self.set(stream) {
            debug!(%error, "failed to set TCP keepalive: {error}");
        }
    }

    fn set(self, stream: &TcpStream) -> io::Result<()> {
        let (idle, interval) = self.times();
        let socket = SockRef::from(stream);
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(interval))?;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        socket.set_tcp_user_timeout(Some(self.user_timeout()))?;
        Ok(())
    }
}

/// The addresses without duplicates, with alternating families.
fn interleave(addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut unique: Vec<SocketAddr> = Vec::new();
    for address in addresses.into_iter().take(2 * MAX_ADDRESSES) {
        if !unique.contains(&address) {
            unique.push(address);
        }
    }
    let preferred = unique.first().is_some_and(SocketAddr::is_ipv6);
    let (one, other): (Vec<_>, Vec<_>) = unique.into_iter().partition(|a| a.is_ipv6() == preferred);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut turns = Vec::new();
    while turns.len() < MAX_ADDRESSES {
        let before = turns.len();
        turns.extend(one.next().into_iter().chain(other.next()));
        if turns.len() == before {
            break;
        }
    }
    turns
}

/// An address and the reason for which the attempt failed.
type AddressError = (SocketAddr, io::Error);

/// The first connection that `open` opens. Each address gets its attempt before
/// `deadline`, however many there are.
async fn race<T>(
    addresses: Vec<SocketAddr>,
    deadline: Instant,
    open: impl AsyncFn(SocketAddr) -> io::Result<T>,
) -> Result<T, Vec<AddressError>> {
    let count = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    let left = deadline.saturating_duration_since(Instant::now());
    let delay = (left / count.saturating_add(1)).clamp(MIN_ATTEMPT_DELAY, ATTEMPT_DELAY);
    let attempt = async |address| {
        let began = Instant::now();
        // With more addresses than `MAX_ATTEMPTS`, an attempt makes room for
        // another.
        let until = if count > MAX_ATTEMPTS { deadline.min(began + delay * MAX_ATTEMPTS) } else { deadline };
        let opened = timeout_at(until, open(address)).await.unwrap_or_else(|_| {
            let text = format!("no answer within {:?}", rounded(began.elapsed()));
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        });
        opened.map_err(|error| (address, error))
    };
    let (mut waiting, mut failures) = (addresses.into_iter(), Vec::new());
    let mut attempts = FuturesUnordered::new();
    let mut next = pin!(sleep_until(Instant::now()));
    loop {
        if waiting.len() == 0 && attempts.is_empty() {
            return Err(failures);
        }
        tokio::select! {
            biased;
            Some(ended) = attempts.next(), if !attempts.is_empty() => match ended {
                Ok(opened) => return Ok(opened),
                Err(failure) => {
                    failures.push(failure);
                    next.as_mut().reset(Instant::now());
                }
            },
            () = &mut next, if waiting.len() > 0 => {
                attempts.extend(waiting.next().map(&attempt));
                next.as_mut().reset(Instant::now() + delay);
            }
        }
    }
}

/// The error for the caller: the reason alone where the caller gave an IP
/// address, else each address with its reason.
fn error(host: &str, mut failures: Vec<AddressError>) -> io::Error {
    let Some(kind) = failures.first().map(|(_, error)| error.kind()) else {
        return io::Error::new(io::ErrorKind::NotFound, format!("`{host}` has no address"));
    };
    if host.parse::<IpAddr>().is_ok() {
        return failures.swap_remove(0).1;
    }
    let mut text = format!("no connection to `{host}`");
    for (n, (address, error)) in failures.iter().take(MAX_NAMED).enumerate() {
        let separator = if n == 0 { ": " } else { "; " };
        // Writing to a string does not fail.
        let _ = write!(text, "{separator}{address}: {error}");
    }
    if failures.len() > MAX_NAMED {
        let _ = write!(text, "; and {} more", failures.len() - MAX_NAMED);
    }
    let same = failures.iter().all(|(_, error)| error.kind() == kind);
    io::Error::new(if same { kind } else { io::ErrorKind::Other }, text)
}

/// The time in whole milliseconds, for messages.
fn rounded(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
