//! DNS: A, AAAA and SRV records as instances.

mod srv;

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use self::srv::Servers;
use super::{Resolution, Resolver};
use crate::instance::{Address, Instance, ParseError, ServiceName};

/// Resolves services by DNS: every address of a host, or every target of an
/// SRV record. Cheap to clone.
///
/// DNS knows no health, so every instance passes; targets of a lower SRV
/// priority are critical, so that they are used when no other is left. Looks up
/// again when the records expire, within the bounds of
/// [`with_interval`](Self::with_interval). A failed look-up leaves the
/// instances as they were. A name that does not exist is an empty set for SRV,
/// where the server reports it, and a failure for addresses, where the system
/// does not distinguish the two.
///
/// ```
/// # fn main() -> Result<(), registry_client::instance::ParseError> {
/// use registry_client::resolve::dns::DnsResolver;
///
/// // A headless service of Kubernetes: all its pods, at one port.
/// let pods = DnsResolver::hosts("{service}.default.svc.cluster.local:50051")?;
/// // SRV records, which include the port.
/// let srv = DnsResolver::srv("_grpc._tcp.{service}.example.org")?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct DnsResolver {
    records: Records,
    template: Arc<str>,
    servers: Servers,
    min_interval: Duration,
    max_interval: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Records {
    Hosts,
    Srv,
}

/// The placeholder of the service's name in a template.
const SERVICE: &str = "{service}";

impl DnsResolver {
    /// The addresses (A, AAAA) of a host, looked up as the system does.
    /// `template` is `host:port`, in which `{service}` stands for the
    /// service's name.
    ///
    /// # Errors
    /// When `template` has another form.
    pub fn hosts(template: &str) -> Result<Self, ParseError> {
        let sample: Address = template.replace(SERVICE, "service").parse().map_err(|e: ParseError| {
            ParseError(format!(
                "DNS name `{template}` is not host:port, where host may contain {SERVICE}: {e}"
            ))
        })?;
        // The system would take minutes to report that an address is no name.
        if sample.host().parse::<std::net::IpAddr>().is_ok() && !template.contains(SERVICE) {
            return Err(ParseError(format!(
                "`{template}` is an address, not a name: a fixed resolver is for that"
            )));
        }
        Ok(Self::new(Records::Hosts, template))
    }

    /// The targets of the SRV records of `template`, in which `{service}`
    /// stands for the service's name.
    ///
    /// # Errors
    /// When it cannot be a DNS name.
    pub fn srv(template: &str) -> Result<Self, ParseError> {
        srv::name(&template.replace(SERVICE, "service"))?;
        Ok(Self::new(Records::Srv, template))
    }

    fn new(records: Records, template: &str) -> Self {
        Self {
            records,
            template: template.into(),
            servers: Servers::System,
            min_interval: Duration::from_secs(5),
            max_interval: Duration::from_secs(30),
        }
    }

    /// Sets the servers for SRV records, for example a Consul agent at
    /// `127.0.0.1:8600`; the system's unless set.
    #[must_use]
    pub fn with_servers(mut self, servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.servers = Servers::Fixed(servers.into_iter().collect());
        self
    }

    /// Sets the least and the longest time between look-ups; 5 s and 30 s
    /// unless set. Between them the records' time to live decides. The system's
    /// look-up does not report it, so addresses are looked up every
    /// `max_interval`. After a failure `min_interval` applies.
    #[must_use]
    pub fn with_interval(mut self, min_interval: Duration, max_interval: Duration) -> Self {
        self.min_interval = min_interval;
        self.max_interval = max_interval.max(min_interval);
        self
    }

    async fn look_up(&self, name: &str) -> Result<DnsRecords, String> {
        match self.records {
            Records::Srv => srv::look_up(&self.servers, name).await,
            Records::Hosts => {
                // Bounded by the system's own timeout.
                let found = tokio::net::lookup_host(name).await.map_err(|e| e.to_string())?;
                Ok(DnsRecords { instances: found.map(instance).collect(), expires: None })
            }
        }
    }
}

fn instance(at: SocketAddr) -> Instance {
    let address = Address::from(at);
    Instance::new(&address.to_string(), address)
}

/// The result of a look-up.
struct DnsRecords {
    instances: Vec<Instance>,
    /// The time at which the records expire; `None` where it is not known.
    expires: Option<Instant>,
}

impl Resolver for DnsResolver {
    fn resolve(&self, service: &ServiceName) -> watch::Receiver<Resolution> {
        let (sender, receiver) = watch::channel(Resolution::default());
        let name = self.template.replace(SERVICE, service.as_str());
        let this = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = sender.closed() => {}
                () = follow(&this, &name, &sender) => {}
            }
        });
        receiver
    }
}

impl fmt::Display for DnsResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DNS name `{}`", self.template)
    }
}

/// Looks up `name` for ever.
async fn follow(resolver: &DnsResolver, name: &str, view: &watch::Sender<Resolution>) {
    loop {
        let pause = match resolver.look_up(name).await {
            Ok(found) => {
                let left = found.expires.map(|at| at.saturating_duration_since(Instant::now()));
                publish(name, view, found.instances);
                left.unwrap_or(resolver.max_interval).clamp(resolver.min_interval, resolver.max_interval)
            }
            Err(cause) => {
                fail(name, view, &cause);
                resolver.min_interval
            }
        };
        // Never early, so that an expired record is not looked up twice.
        sleep(pause.mul_f64(1.0 + 0.1 * fastrand::f64())).await;
    }
}

fn publish(name: &str, view: &watch::Sender<Resolution>, mut instances: Vec<Instance>) {
    instances.sort_by(|a, b| a.id.cmp(&b.id));
    instances.dedup_by(|a, b| a.id == b.id);
    let found = Resolution::found(instances);
    view.send_if_modified(|now| {
        if now.error.is_some() {
            tracing::info!(%name, "DNS resolves `{name}` again");
        }
        let changed = *now != found;
        *now = found;
        changed
    });
}

fn fail(name: &str, view: &watch::Sender<Resolution>, cause: &str) {
    let words = format!(
        "DNS could not resolve `{name}`: {cause}; check the name, and the servers in /etc/resolv.conf"
    );
    view.send_if_modified(|now| {
        let news = now.fail(&words);
        if news {
            let kept = now.instances.as_ref().map_or(0, |instances| instances.len());
            tracing::warn!(%name, "{words}; keeping {kept} instances");
        }
        news
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_that_names_nothing_is_refused() {
        for bad in ["host", "host:0", ":80", "10.0.0.1:80", "a b:80"] {
            assert!(DnsResolver::hosts(bad).is_err(), "{bad}");
        }
        for bad in ["", "a..b", &"x".repeat(64)] {
            assert!(DnsResolver::srv(bad).is_err(), "{bad}");
        }
        DnsResolver::hosts("{service}.local:80").unwrap();
        DnsResolver::srv("_grpc._tcp.{service}.local").unwrap();
    }

    #[tokio::test]
    async fn the_addresses_of_a_host_are_reported() {
        let mut view = DnsResolver::hosts("localhost:80").unwrap().resolve(&"any".parse().unwrap());
        let now = view.wait_for(|now| now.instances.is_some()).await.unwrap();
        let found = now.instances.as_deref().unwrap();
        assert!(found.iter().any(|instance| instance.id.as_str() == "127.0.0.1:80"), "{found:?}");
    }

    #[tokio::test]
    async fn a_name_that_does_not_exist_is_said_in_words() {
        let mut view =
            DnsResolver::hosts("{service}.invalid:80").unwrap().resolve(&"missing".parse().unwrap());
        let now = view.wait_for(|now| now.error.is_some()).await.unwrap();
        assert!(now.error.as_deref().unwrap().contains("`missing.invalid:80`"), "{now:?}");
        assert_eq!(now.instances, None);
    }
}
