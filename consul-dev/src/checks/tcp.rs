//! Checks that are passing while a TCP connection can be made.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::CheckSpec;

/// The text of a failed connection in the format of Go's network library.
pub(super) fn dial_error(address: &str, error: &io::Error) -> String {
    let cause = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connect: connection reset by peer".to_owned(),
        io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {address}: {cause}")
}

/// Connects to `host:port`.
///
/// # Errors
/// When it cannot connect within `limit`.
pub(super) async fn dial(address: &str, limit: Duration) -> Result<TcpStream, String> {
    let timed_out = || io::Error::from(io::ErrorKind::TimedOut);
    timeout(limit, TcpStream::connect(address))
        .await
        .unwrap_or_else(|_| Err(timed_out()))
        .map_err(|error| dial_error(address, &error))
}

#[derive(Debug, Clone)]
pub(super) struct Target(String);

impl Target {
    pub(super) fn new(spec: &CheckSpec) -> Self {
        Self(spec.tcp.clone())
    }

    pub(super) async fn probe(self, limit: Duration) -> Result<String, String> {
        dial(&self.0, limit).await?;
        Ok(format!("TCP connect {}: Success", self.0))
    }
}
