//! The ports of `mesh up`, and the variables that container platforms write
//! under the names that earlier versions read.
#![allow(clippy::doc_markdown, reason = "these comments are read at a terminal, as help")]

use anyhow::Context;
use clap::Args;

/// The ports that `mesh up` opens.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct PortArgs {
    /// Puts every port into P..P+200, fixed by service and replica.
    #[arg(long, env = "CONSORT_PORT_BASE", value_name = "P",
          value_parser = clap::value_parser!(u16).range(1024..=65335))]
    pub(crate) port_base: Option<u16>,
    /// The port of the registry that `mesh up` starts [default: 8500]
    #[arg(long, env = "CONSORT_PORT_REGISTRY", value_name = "P",
          value_parser = clap::value_parser!(u16).range(1..=65525))]
    pub(crate) registry_port: Option<u16>,
    /// The port of the first cart-service; replicas follow [default: 50051]
    #[arg(long, env = "CONSORT_PORT_CART", value_name = "P",
          value_parser = clap::value_parser!(u16).range(1..=65525))]
    pub(crate) cart_port: Option<u16>,
    /// The port of the first order-service; replicas follow [default: 50061]
    #[arg(long, env = "CONSORT_PORT_ORDER", value_name = "P",
          value_parser = clap::value_parser!(u16).range(1..=65525))]
    pub(crate) order_port: Option<u16>,
    /// The port of the first product-service; replicas follow [default: 50071]
    #[arg(long, env = "CONSORT_PORT_PRODUCT", value_name = "P",
          value_parser = clap::value_parser!(u16).range(1..=65525))]
    pub(crate) product_port: Option<u16>,
    /// The port of the first payment-service; replicas follow [default: 50081]
    #[arg(long, env = "CONSORT_PORT_PAYMENT", value_name = "P",
          value_parser = clap::value_parser!(u16).range(1..=65525))]
    pub(crate) payment_port: Option<u16>,
    /// The port of the first user-service; replicas follow [default: 50091]
    #[arg(long, env = "CONSORT_PORT_USER", value_name = "P",
          value_parser = clap::value_parser!(u16).range(1..=65525))]
    pub(crate) user_port: Option<u16>,
    /// The first admin port, which `mesh explain` queries; the others follow,
    /// ten for each service [default: 9600]
    #[arg(long, env = "CONSORT_PORT_ADMIN", value_name = "P",
          value_parser = clap::value_parser!(u16).range(1..=65486))]
    pub(crate) admin_port: Option<u16>,
}

/// The ports' variables of earlier versions, each with its present name.
/// Kubernetes and Docker write the former for a Service of such a name, for
/// example `consort-cart`; no link ends in the latter.
const FORMER_NAMES: [(&str, &str); 7] = [
    ("CONSORT_REGISTRY_PORT", "CONSORT_PORT_REGISTRY"),
    ("CONSORT_CART_PORT", "CONSORT_PORT_CART"),
    ("CONSORT_ORDER_PORT", "CONSORT_PORT_ORDER"),
    ("CONSORT_PRODUCT_PORT", "CONSORT_PORT_PRODUCT"),
    ("CONSORT_PAYMENT_PORT", "CONSORT_PORT_PAYMENT"),
    ("CONSORT_USER_PORT", "CONSORT_PORT_USER"),
    ("CONSORT_ADMIN_PORT", "CONSORT_PORT_ADMIN"),
];

impl PortArgs {
    /// Reads the variables of earlier versions for ports that are not set
    /// otherwise. Returns those that hold a service link and are ignored.
    ///
    /// # Errors
    /// When one holds neither a port nor a link.
    pub(crate) fn read_former_names(
        &mut self,
        get: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Vec<&'static str>> {
        let ports = [
            &mut self.registry_port,
            &mut self.cart_port,
            &mut self.order_port,
            &mut self.product_port,
            &mut self.payment_port,
            &mut self.user_port,
            &mut self.admin_port,
        ];
        let mut links = Vec::new();
        for (port, (former, present)) in ports.into_iter().zip(FORMER_NAMES) {
            let Some(value) = get(former).filter(|value| !value.is_empty()) else { continue };
            if is_link(&value) {
                links.push(former);
            } else if port.is_none() {
                let read = value.parse().ok().filter(|read| (1..=65_486).contains(read));
                *port = Some(read.with_context(|| {
                    format!("{former} is not a port from 1 to 65486; correct it, or set {present} instead")
                })?);
            }
        }
        Ok(links)
    }
}

/// Returns whether a container platform wrote `value`: `tcp://10.0.0.1:80`.
fn is_link(value: &str) -> bool {
    value.split_once("://").is_some_and(|(scheme, _)| matches!(scheme, "tcp" | "udp" | "sctp"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_former_name_holds_a_port_or_a_link_that_is_ignored() {
        let read = |value: &'static str| {
            let mut ports = PortArgs { cart_port: Some(7), ..PortArgs::default() };
            let links = ports.read_former_names(|_| Some(value.to_owned()));
            links.map(|links| (links.len(), ports.cart_port, ports.user_port))
        };
        assert_eq!(read("8080").unwrap(), (0, Some(7), Some(8080)));
        for link in ["tcp://10.0.0.1:80", "udp://10.0.0.1:53", "tcp://[fd00::1]:80"] {
            assert_eq!(read(link).unwrap(), (7, Some(7), None));
        }
        for bad in ["0", "70000", "http://x:1", "x"] {
            assert!(read(bad).unwrap_err().to_string().contains("CONSORT_PORT_REGISTRY"), "{bad}");
        }
    }
}
