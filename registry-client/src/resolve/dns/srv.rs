//! SRV records (RFC 2782).

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use hickory_resolver::{
    Resolver, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    lookup::Lookup,
    net::runtime::TokioRuntimeProvider,
    proto::rr::{
        Name, RData, Record, RecordType,
        rdata::{SRV, a::A, aaaa::AAAA},
    },
};
use tokio::time::Instant;

use super::DnsRecords;
use crate::instance::{Address, Instance, InstanceHealth, ParseError};

/// The DNS servers for SRV records.
#[derive(Clone, Debug)]
pub(super) enum Servers {
    /// The servers of `/etc/resolv.conf`, read at every look-up.
    System,
    Fixed(Arc<[SocketAddr]>),
}

pub(super) fn name(text: &str) -> Result<Name, ParseError> {
    if text.trim_matches('.').is_empty() {
        return Err(ParseError(format!("DNS name `{text}` is empty")));
    }
    Name::from_utf8(text).map_err(|e| ParseError(format!("`{text}` is not a DNS name ({e})")))
}

/// Looks up the SRV records of a name. No records is not an error.
pub(super) async fn look_up(servers: &Servers, text: &str) -> Result<DnsRecords, String> {
    let name = name(text).map_err(|e| e.to_string())?;
    let resolver = resolver(servers).map_err(|e| e.to_string())?;
    match resolver.lookup(name, RecordType::SRV).await {
        Ok(lookup) => Ok(DnsRecords {
            instances: instances(&lookup),
            expires: Some(Instant::from_std(lookup.valid_until())),
        }),
        Err(e) if e.is_no_records_found() => Ok(DnsRecords { instances: Vec::new(), expires: None }),
        Err(e) => Err(e.to_string()),
    }
}

fn resolver(servers: &Servers) -> Result<TokioResolver, hickory_resolver::net::NetError> {
    let mut builder = match servers {
        Servers::System => TokioResolver::builder_tokio()?,
        Servers::Fixed(servers) => {
            let mut config = ResolverConfig::default();
            config.name_servers = servers.iter().map(server).collect();
            Resolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    // Look-ups happen when the records expire: a cache could only be stale.
    builder.options_mut().cache_size = 0;
    builder.build()
}

fn server(at: &SocketAddr) -> NameServerConfig {
    let mut config = NameServerConfig::udp_and_tcp(at.ip());
    for connection in &mut config.connections {
        let ConnectionConfig { port, .. } = connection;
        *port = at.port();
    }
    config
}

/// The targets as instances. Only those of the lowest priority number pass: the
/// others are used when none of them is left.
fn instances(lookup: &Lookup) -> Vec<Instance> {
    let addresses = addresses(lookup.additionals());
    let targets: Vec<&SRV> =
        lookup.answers().iter().filter_map(srv).filter(|srv| !srv.target.is_root()).collect();
    let first = targets.iter().map(|srv| srv.priority).min();
    // In the order of priority, so that the better one of a duplicate target
    // stays.
    let mut targets = targets;
    targets.sort_by_key(|srv| srv.priority);
    targets.into_iter().filter_map(|srv| instance(srv, first, &addresses)).collect()
}

fn srv(record: &Record) -> Option<&SRV> {
    match &record.data {
        RData::SRV(srv) => Some(srv),
        _ => None,
    }
}

/// The addresses in the additional section, which need no look-up of their own.
fn addresses(records: &[Record]) -> BTreeMap<&Name, IpAddr> {
    let mut found = BTreeMap::new();
    for record in records {
        let ip = match &record.data {
            RData::A(A(ip)) => IpAddr::V4(*ip),
            RData::AAAA(AAAA(ip)) => IpAddr::V6(*ip),
            _ => continue,
        };
        found.entry(&record.name).or_insert(ip);
    }
    found
}

fn instance(srv: &SRV, first: Option<u16>, addresses: &BTreeMap<&Name, IpAddr>) -> Option<Instance> {
    let target = srv.target.to_utf8();
    let host = match addresses.get(&srv.target) {
        Some(ip) => ip.to_string(),
        None => target.trim_end_matches('.').to_owned(),
    };
    let address = match Address::new(&host, srv.port) {
        Ok(address) => address,
        Err(e) => {
            tracing::debug!("ignoring an SRV target: {e}");
            return None;
        }
    };
    let mut instance = Instance::new(&format!("{}:{}", target.trim_end_matches('.'), srv.port), address);
    instance.weight = srv.weight.max(1);
    if Some(srv.priority) != first {
        instance.health = InstanceHealth::Critical;
        instance.reason = format!("its SRV priority is {}, others come first", srv.priority);
    }
    Some(instance)
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use hickory_resolver::proto::{
        op::{Message, MessageType, ResponseCode},
        serialize::binary::{BinDecodable, BinEncodable},
    };
    use tokio::net::UdpSocket;

    use super::*;
    use crate::resolve::{Resolution, Resolver as _, dns::DnsResolver};

    /// Answers each query by `answer`; the task ends with the test's runtime.
    async fn dns(mut answer: impl FnMut(&mut Message) + Send + 'static) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut packet = [0; 4096];
            while let Ok((len, from)) = socket.recv_from(&mut packet).await {
                let mut message = Message::from_bytes(&packet[..len]).unwrap();
                message.metadata.message_type = MessageType::Response;
                answer(&mut message);
                socket.send_to(&message.to_bytes().unwrap(), from).await.unwrap();
            }
        });
        addr
    }

    fn record(message: &Message, (priority, weight, port): (u16, u16, u16), target: &str) -> Record {
        let name = message.queries[0].name().clone();
        Record::from_rdata(
            name,
            60,
            RData::SRV(SRV::new(priority, weight, port, Name::from_utf8(target).unwrap())),
        )
    }

    fn view(server: SocketAddr) -> tokio::sync::watch::Receiver<Resolution> {
        let resolver = DnsResolver::srv("_grpc._tcp.{service}.test.").unwrap().with_servers([server]);
        let millis = Duration::from_millis;
        resolver.with_interval(millis(20), millis(40)).resolve(&"cart".parse().unwrap())
    }

    async fn until(
        view: &mut tokio::sync::watch::Receiver<Resolution>,
        condition: impl Fn(&Resolution) -> bool,
    ) -> Resolution {
        let found = tokio::time::timeout(Duration::from_secs(20), view.wait_for(condition)).await;
        found.expect("in time").unwrap().clone()
    }

    #[tokio::test]
    async fn targets_come_with_weight_port_and_address_and_the_later_priorities_in_reserve() {
        let server = dns(|message| {
            assert_eq!(message.queries[0].name().to_utf8(), "_grpc._tcp.cart.test.");
            for (numbers, target) in
                [((1, 5, 80), "a.test."), ((1, 0, 81), "b.test."), ((2, 9, 82), "c.test.")]
            {
                let record = record(message, numbers, target);
                message.answers.push(record);
            }
            let ip = RData::A(A(Ipv4Addr::new(10, 0, 0, 1)));
            message.additionals.push(Record::from_rdata(Name::from_utf8("a.test.").unwrap(), 60, ip));
        })
        .await;
        let found = until(&mut view(server), |now| now.instances.is_some()).await.instances.unwrap();
        let expected: Vec<_> =
            found.iter().map(|i| (i.id.as_str(), i.address.to_string(), i.weight, i.health)).collect();
        assert_eq!(
            expected,
            [
                ("a.test:80", "10.0.0.1:80".to_owned(), 5, InstanceHealth::Passing),
                ("b.test:81", "b.test:81".to_owned(), 1, InstanceHealth::Passing),
                ("c.test:82", "c.test:82".to_owned(), 9, InstanceHealth::Critical),
            ]
        );
    }

    #[tokio::test]
    async fn a_change_is_reported_a_failure_keeps_the_set_and_no_record_empties_it() {
        let mut turn = 0;
        let server = dns(move |message| {
            turn += 1;
            match turn {
                // A query that fails is repeated by the resolver itself.
                3..12 => message.metadata.response_code = ResponseCode::ServFail,
                12.. => message.metadata.response_code = ResponseCode::NXDomain,
                _ => {
                    let record = record(message, (1, 1, 80 + turn), "a.test.");
                    message.answers.push(record);
                }
            }
        })
        .await;
        let mut view = view(server);
        until(&mut view, |now| now.instances.as_ref().is_some_and(|i| i[0].address.port() == 81)).await;
        until(&mut view, |now| now.instances.as_ref().is_some_and(|i| i[0].address.port() == 82)).await;
        let failed = until(&mut view, |now| now.error.is_some()).await;
        assert_eq!(failed.instances.unwrap()[0].address.port(), 82, "the last good set is kept");
        let empty = until(&mut view, |now| now.instances.as_ref().is_some_and(|i| i.is_empty())).await;
        assert_eq!(empty.error, None);
    }
}
