//! The port of each process, and the check that it is free before anything
//! starts.
//!
//! | process | default | with `--port-base P` |
//! |---|---|---|
//! | registry: HTTP | 8500 | P |
//! | Consul: gRPC, gRPC with TLS, LAN, WAN, servers, DNS | 8502, 8503, 8301, 8302, 8300, 8600 | P+1 … P+6 |
//! | cart-service 1, 2, … | 50051, 50052, … | P+10, P+11, … |
//! | order-service 1, 2, … | 50061, 50062, … | P+20, P+21, … |
//! | product-service 1, 2, … | 50071, 50072, … | P+30, P+31, … |
//! | payment-service 1, 2, … | 50081, 50082, … | P+40, P+41, … |
//! | user-service 1, 2, … | 50091, 50092, … | P+50, P+51, … |
//! | admin endpoint of each of these | 9600, …, 9610, … up to 9640, … | P+110, …, P+120, … up to P+150, … |

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use anyhow::{Context, Result, bail};

use crate::{cli::PortArgs, services::Service};

/// The ports of the Consul that `mesh up` starts, besides HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConsulPorts {
    pub(crate) grpc: u16,
    pub(crate) grpc_tls: u16,
    pub(crate) serf_lan: u16,
    pub(crate) serf_wan: u16,
    pub(crate) server: u16,
    pub(crate) dns: u16,
}

/// The ports of all processes.
#[derive(Clone, Debug)]
pub(crate) struct Ports {
    base: Option<u16>,
    args: PortArgs,
}

impl Ports {
    pub(crate) fn new(args: &PortArgs) -> Self {
        Self { base: args.port_base, args: args.clone() }
    }

    /// The HTTP port of the registry that `mesh up` starts.
    pub(crate) fn registry(&self) -> u16 {
        self.args.registry_port.or(self.base).unwrap_or(8500)
    }

    /// The other ports of the Consul that `mesh up` starts.
    pub(crate) fn consul(&self) -> ConsulPorts {
        match self.base {
            Some(base) => ConsulPorts {
                grpc: base + 1,
                grpc_tls: base + 2,
                serf_lan: base + 3,
                serf_wan: base + 4,
                server: base + 5,
                dns: base + 6,
            },
            None => ConsulPorts {
                grpc: 8502,
                grpc_tls: 8503,
                serf_lan: 8301,
                serf_wan: 8302,
                server: 8300,
                dns: 8600,
            },
        }
    }

    /// The port of replica `replica`, counted from 1, of `service`.
    pub(crate) fn service(&self, service: Service, replica: u16) -> u16 {
        let (own, offset, default) = match service {
            Service::Cart => (self.args.cart_port, 10, 50051),
            Service::Order => (self.args.order_port, 20, 50061),
            Service::Product => (self.args.product_port, 30, 50071),
            Service::Payment => (self.args.payment_port, 40, 50081),
            Service::User => (self.args.user_port, 50, 50091),
        };
        own.or(self.base.map(|base| base + offset)).unwrap_or(default) + replica - 1
    }

    /// The admin address, on loopback, of replica `replica`, counted from 1, of
    /// `service`.
    pub(crate) fn admin(&self, service: Service, replica: u16) -> SocketAddr {
        let offset = match service {
            Service::Cart => 0,
            Service::Order => 10,
            Service::Product => 20,
            Service::Payment => 30,
            Service::User => 40,
        };
        let first = self.args.admin_port.or(self.base.map(|base| base + 110)).unwrap_or(9600);
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), first + offset + replica - 1)
    }

    /// Checks that every service's port is free and used once.
    ///
    /// # Errors
    /// When one is not; the error names the port, its process, and the flag
    /// that changes it.
    pub(crate) fn check_services(&self, host: IpAddr, replicas: u16) -> Result<()> {
        let mut seen = std::collections::HashMap::new();
        for service in Service::ALL {
            for replica in 1..=replicas {
                let port = self.service(service, replica);
                let owner = format!("{service} {replica}");
                if let Some(other) = seen.insert(port, owner.clone()) {
                    bail!(
                        "port {port} is assigned to {other} and to {owner}; {}",
                        port_hint(service.short_name())
                    );
                }
                ensure_free(SocketAddr::new(host, port), &owner, service.short_name())?;
                ensure_free(
                    self.admin(service, replica),
                    &format!("the admin endpoint of {owner}"),
                    "admin",
                )?;
            }
        }
        Ok(())
    }

    /// Checks that the registry's ports are free: with `consul` all of a
    /// Consul, otherwise only HTTP.
    ///
    /// # Errors
    /// As [`Self::check_services`].
    pub(crate) fn check_registry(&self, consul: bool) -> Result<()> {
        ensure_free(local(self.registry()), "the registry", "registry")?;
        if consul {
            let ConsulPorts { grpc, grpc_tls, serf_lan, serf_wan, server, dns } = self.consul();
            for (port, purpose) in [(grpc, "gRPC"), (grpc_tls, "gRPC with TLS"), (server, "servers")] {
                check_consul(port, purpose, check_free)?;
            }
            for (port, purpose) in [(serf_lan, "LAN"), (serf_wan, "WAN"), (dns, "DNS")] {
                check_consul(port, purpose, check_free_udp_too)?;
            }
        }
        Ok(())
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)
}

fn check_consul(port: u16, purpose: &str, check_free: fn(SocketAddr) -> std::io::Result<()>) -> Result<()> {
    check_free(local(port)).with_context(|| {
        format!(
            "port {port} (Consul: {purpose}) cannot be opened; move every port with --port-base or \
             CONSORT_PORT_BASE, or use --registry embedded"
        )
    })
}

fn ensure_free(at: SocketAddr, owner: &str, flag: &str) -> Result<()> {
    check_free(at)
        .with_context(|| format!("port {} ({owner}) cannot be opened; {}", at.port(), port_hint(flag)))
}

fn check_free(at: SocketAddr) -> std::io::Result<()> {
    TcpListener::bind(at).map(drop)
}

/// The same for a port that is used by TCP and by UDP.
fn check_free_udp_too(at: SocketAddr) -> std::io::Result<()> {
    check_free(at)?;
    UdpSocket::bind(at).map(drop)
}

fn port_hint(flag: &str) -> String {
    format!(
        "choose another with --{flag}-port or CONSORT_PORT_{}, or move every port with --port-base or \
         CONSORT_PORT_BASE",
        flag.to_uppercase()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn based(base: u16) -> Ports {
        Ports::new(&PortArgs { port_base: Some(base), ..PortArgs::default() })
    }

    #[test]
    fn a_port_base_moves_every_port_into_its_two_hundred() {
        let ports = based(20_000);
        let consul = ports.consul();
        let mut all = vec![
            ports.registry(),
            consul.grpc,
            consul.grpc_tls,
            consul.serf_lan,
            consul.serf_wan,
            consul.server,
            consul.dns,
        ];
        for service in Service::ALL {
            all.extend((1..=10).map(|replica| ports.service(service, replica)));
            all.extend((1..=10).map(|replica| ports.admin(service, replica).port()));
        }
        assert!(all.iter().all(|p| (20_000..=20_200).contains(p)), "{all:?}");
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count, "two processes share a port: {all:?}");
    }

    #[test]
    fn a_ports_own_flag_wins_over_the_base() {
        let ports =
            Ports::new(&PortArgs { port_base: Some(20_000), cart_port: Some(4000), ..PortArgs::default() });
        assert_eq!(ports.service(Service::Cart, 2), 4001);
        assert_eq!(ports.service(Service::Order, 1), 20_020);
    }

    #[test]
    fn every_service_keeps_its_port() {
        let (usual, based) = (Ports::new(&PortArgs::default()), based(20_000));
        let ports = |service| {
            let of = |ports: &Ports| (ports.service(service, 1), ports.admin(service, 1).port());
            [of(&usual), of(&based)]
        };
        assert_eq!(ports(Service::Cart), [(50_051, 9_600), (20_010, 20_110)]);
        assert_eq!(ports(Service::Order), [(50_061, 9_610), (20_020, 20_120)]);
        assert_eq!(ports(Service::Product), [(50_071, 9_620), (20_030, 20_130)]);
        assert_eq!(ports(Service::Payment), [(50_081, 9_630), (20_040, 20_140)]);
        assert_eq!(ports(Service::User), [(50_091, 9_640), (20_050, 20_150)]);
    }

    #[test]
    fn a_taken_port_is_named_with_its_flag() {
        let taken = TcpListener::bind((LOOPBACK, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let ports = Ports::new(&PortArgs { cart_port: Some(port), ..PortArgs::default() });
        let text = ports.check_services(LOOPBACK, 1).unwrap_err().to_string();
        assert!(text.contains(&format!("port {port} (cart-service 1)")), "{text}");
        assert!(text.contains("--cart-port") && text.contains("CONSORT_PORT_CART"), "{text}");
    }

    #[test]
    fn a_port_of_consuls_that_is_taken_for_datagrams_only_is_named_with_its_purpose() {
        let taken = UdpSocket::bind((LOOPBACK, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let text = check_consul(port, "DNS", check_free_udp_too).unwrap_err().to_string();
        assert!(text.contains(&format!("port {port} (Consul: DNS)")), "{text}");
        assert!(text.contains("--port-base") && text.contains("--registry embedded"), "{text}");
    }

    #[test]
    fn two_processes_never_share_a_port() {
        let ports = Ports::new(&PortArgs {
            cart_port: Some(23_011),
            order_port: Some(23_011),
            ..PortArgs::default()
        });
        assert!(ports.check_services(LOOPBACK, 1).unwrap_err().to_string().contains("order-service 1"));
    }
}
