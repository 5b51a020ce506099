//! Free ports below the range that the system gives to outgoing connections.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    sync::atomic::{AtomicU16, Ordering::Relaxed},
};

use anyhow::{Context, Result};

const FIRST_PORT: u16 = 20_000;
const LAST_PORT: u16 = 31_999;

static NEXT_OFFSET: AtomicU16 = AtomicU16::new(0);

/// A loopback address that is free now, and returned once by this process.
///
/// # Errors
/// When every port is taken.
pub(crate) fn free() -> Result<SocketAddr> {
    // Two harnesses side by side should not begin at the same port.
    let _ = NEXT_OFFSET.compare_exchange(0, fastrand::u16(1..10_000), Relaxed, Relaxed);
    let candidates = (FIRST_PORT..=LAST_PORT).map(|_| {
        let port = FIRST_PORT + NEXT_OFFSET.fetch_add(1, Relaxed) % (LAST_PORT - FIRST_PORT);
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
    });
    candidates.into_iter().find(|at| TcpListener::bind(at).is_ok()).context("no port below 32000 is free")
}
