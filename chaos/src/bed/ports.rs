//! Ports that nobody else takes: below the range that the system gives to
//! outgoing connections.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    sync::atomic::{AtomicU16, Ordering::Relaxed},
};

use anyhow::{Context, Result};

const FIRST: u16 = 20_000;
const LAST: u16 = 31_999;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A loopback address that is free now, and not given twice by this process.
///
/// # Errors
/// When every port is taken.
pub(crate) fn free() -> Result<SocketAddr> {
    // Two harnesses side by side should not begin at the same port.
    let _ = NEXT.compare_exchange(0, fastrand::u16(1..10_000), Relaxed, Relaxed);
    let tries = (FIRST..=LAST).map(|_| {
        let port = FIRST + NEXT.fetch_add(1, Relaxed) % (LAST - FIRST);
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
    });
    tries.into_iter().find(|at| TcpListener::bind(at).is_ok()).context("no port below 32000 is free")
}
