//! The address that a server registers.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{net::UdpSocket, time::timeout};

use crate::{
    Error,
    config::Advertise,
    consul::{Client, advertise_address},
    instance::Address,
};

/// Addresses reserved for documentation (RFC 5737, RFC 3849): the route to them
/// is the default route.
const ROUTE_TARGETS: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 9),
];

/// The timeout of looking up the agent's host name.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);

/// The address that a server bound to `bound` registers: the configured one,
/// else the bound one, else, where it listens on every interface, the one that
/// routes to the agent.
///
/// An agent on this machine is reached by loopback, which other machines cannot
/// reach; then it is the address of the default route, and loopback only
/// without one.
pub(super) async fn advertised(
    configured: Option<&Advertise>,
    bound: SocketAddr,
    registry: &Client,
) -> Result<Address, Error> {
    if let Some(configured) = configured {
        return configured.address(bound.port()).map_err(|why| Error::Config(why.to_string()));
    }
    if !bound.ip().is_unspecified() {
        return Ok(bound.into());
    }
    // An agent that cannot be found is ignored here; the registration reports
    // it.
    let towards_agent = timeout(LOOKUP_TIMEOUT, advertise_address(registry)).await.ok().and_then(Result::ok);
    let mut found = towards_agent.filter(|ip| !ip.is_loopback());
    for target in ROUTE_TARGETS {
        if found.is_none() && (target.is_ipv4() || bound.is_ipv6()) {
            found = source_of(target).await.ok().filter(|ip| !ip.is_unspecified() && !ip.is_loopback());
        }
    }
    let loopback = || if bound.is_ipv6() { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
    let ip = found.or(towards_agent).unwrap_or_else(loopback);
    Ok(SocketAddr::new(ip, bound.port()).into())
}

/// The source address for packets to `target`. Sends nothing.
async fn source_of(target: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr =
        if target.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(target).await?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn address(configured: Option<&str>, bound: &str, agent: &str) -> String {
        let configured = configured.map(|text| text.parse().unwrap());
        let registry = Client::builder(agent).build().unwrap();
        advertised(configured.as_ref(), bound.parse().unwrap(), &registry).await.unwrap().to_string()
    }

    #[tokio::test]
    async fn a_configured_address_wins() {
        let agent = "127.0.0.1:8500";
        assert_eq!(address(Some("cart.example"), "127.0.0.1:80", agent).await, "cart.example:80");
        assert_eq!(address(Some("cart.example:81"), "0.0.0.0:80", agent).await, "cart.example:81");
    }

    #[tokio::test]
    async fn else_the_bound_address_when_it_is_one() {
        assert_eq!(address(None, "127.0.0.1:80", "192.0.2.1:8500").await, "127.0.0.1:80");
        assert_eq!(address(None, "[::1]:80", "127.0.0.1:8500").await, "[::1]:80");
    }

    #[tokio::test]
    async fn a_server_on_every_interface_never_registers_the_unspecified_address() {
        for bound in ["0.0.0.0:80", "[::]:80"] {
            for agent in ["127.0.0.1:8500", "unix:///run/consul.sock", "no.such.host.invalid:8500"] {
                let address: Address = address(None, bound, agent).await.parse().unwrap();
                let ip: IpAddr = address.host().parse().unwrap();
                assert!(!ip.is_unspecified(), "{address}");
            }
        }
    }

    #[tokio::test]
    async fn a_local_agent_does_not_make_it_loopback_where_there_is_a_network() {
        let outward = source_of(ROUTE_TARGETS[0]).await.unwrap_or(Ipv4Addr::LOCALHOST.into());
        let expected = SocketAddr::new(outward, 80).to_string();
        assert_eq!(address(None, "0.0.0.0:80", "127.0.0.1:8500").await, expected);
    }
}
