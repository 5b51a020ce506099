//! Under which address a server registers.
#![allow(dead_code, reason = "used by the registration")]

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::net::UdpSocket;

use crate::{Error, config::Advertise, instance::Address};

/// Addresses that exist nowhere (RFC 5737, RFC 3849): the route to them is the
/// route to everywhere else.
const ELSEWHERE: [&str; 2] = ["192.0.2.1:9", "[2001:db8::1]:9"];

/// The address under which a server that is bound to `bound` registers: the
/// configured one, else the bound one, else, where that stands for every
/// interface, the one that routes to the registry's `agent` (`host:port`).
///
/// An agent on this machine is reached by loopback, which is no address for
/// callers on other machines; then it is the interface that routes to them, and
/// loopback only where there is none.
pub(super) async fn advertised(
    configured: Option<&Advertise>,
    bound: SocketAddr,
    agent: Option<&str>,
) -> Result<Address, Error> {
    if let Some(configured) = configured {
        return configured.address(bound.port()).map_err(|why| Error::Config(why.to_string()));
    }
    if !bound.ip().is_unspecified() {
        return Ok(bound.into());
    }
    let mut loopback = None;
    for target in agent.into_iter().chain(ELSEWHERE) {
        match interface_towards(target, bound).await {
            Ok(ip) if ip.is_loopback() => loopback = loopback.or(Some(ip)),
            Ok(ip) if !ip.is_unspecified() => return Ok(SocketAddr::new(ip, bound.port()).into()),
            Ok(_) | Err(_) => {}
        }
    }
    let fallback = if bound.is_ipv6() { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
    Ok(SocketAddr::new(loopback.unwrap_or(fallback), bound.port()).into())
}

/// The address from which this machine would send to `target`. Sends nothing.
async fn interface_towards(target: &str, bound: SocketAddr) -> io::Result<IpAddr> {
    for target in tokio::net::lookup_host(target).await? {
        // A server that listens on IPv6's everything takes IPv4 too.
        if target.is_ipv6() && bound.is_ipv4() {
            continue;
        }
        let any =
            if target.is_ipv6() { IpAddr::from(Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(target).await?;
        return Ok(socket.local_addr()?.ip());
    }
    Err(io::ErrorKind::AddrNotAvailable.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn address(configured: Option<&str>, bound: &str, agent: Option<&str>) -> String {
        let configured = configured.map(|text| text.parse().unwrap());
        advertised(configured.as_ref(), bound.parse().unwrap(), agent).await.unwrap().to_string()
    }

    #[tokio::test]
    async fn a_configured_address_wins() {
        assert_eq!(address(Some("cart.example"), "127.0.0.1:80", None).await, "cart.example:80");
        assert_eq!(address(Some("cart.example:81"), "0.0.0.0:80", None).await, "cart.example:81");
    }

    #[tokio::test]
    async fn else_the_bound_address_when_it_is_one() {
        assert_eq!(address(None, "127.0.0.1:80", Some("192.0.2.1:8500")).await, "127.0.0.1:80");
        assert_eq!(address(None, "[::1]:80", None).await, "[::1]:80");
    }

    #[tokio::test]
    async fn a_server_on_every_interface_never_registers_the_unspecified_address() {
        for bound in ["0.0.0.0:80", "[::]:80"] {
            for agent in [None, Some("127.0.0.1:8500"), Some("no.such.host.invalid:8500")] {
                let address = address(None, bound, agent).await;
                assert!(!address.starts_with("0.0.0.0") && !address.starts_with("[::]"), "{address}");
            }
        }
    }
}
