//! The resolver for Consul.

mod discovery;
mod instances;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::watch;

pub use self::discovery::Discovery;
use self::instances::{ServiceInstances, SkippedEntry};
use super::{
    Client, Error, TokenState,
    error::excerpt,
    http::{HttpCall, HttpResponse},
    watch::{Change, Resource, WatchEvent, cursor::BlockingBy, follow, pace::Pace},
    wire::BoundedList,
};
use crate::{
    instance::{InstanceId, ServiceName},
    resolve::{RegistryCounters, Resolution, Resolver},
};

/// Resolves services by Consul's health endpoint. Cheap to clone.
///
/// It lists every instance, whatever its checks: the channel decides about
/// critical ones. Any server may respond, so that discovery works without a
/// leader. An empty response is an empty set; the channel decides whether to
/// use it. One watch per service, datacenter and filter serves all resolvers of
/// one [`Client`] and its clones; it ends with its last receiver.
#[derive(Clone, Debug)]
pub struct ConsulResolver {
    client: Client,
    discovery: Discovery,
    pace: Pace,
}

impl ConsulResolver {
    /// A resolver that uses `client`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, discovery: Discovery::default(), pace: Pace::default() }
    }

    /// Restricts the resolver to the instances of `discovery`.
    #[must_use]
    pub fn with_discovery(mut self, discovery: Discovery) -> Self {
        self.discovery = discovery;
        self
    }

    /// Restricts the resolver to instances that match a filter expression of
    /// Consul's, such as `Service.Meta.version == "v2"`.
    #[must_use]
    pub fn with_filter(mut self, expression: impl Into<String>) -> Self {
        self.discovery.filter = Some(expression.into());
        self
    }

    /// Resolves in another datacenter, to WAN addresses.
    #[must_use]
    pub fn with_datacenter(mut self, datacenter: impl Into<String>) -> Self {
        self.discovery.datacenter = Some(datacenter.into());
        self
    }

    fn key(&self, service: &ServiceName) -> Key {
        // Service names are case-insensitive in Consul.
        (service.as_str().to_ascii_lowercase(), self.discovery.clone())
    }
}

impl Resolver for ConsulResolver {
    fn resolve(&self, service: &ServiceName) -> watch::Receiver<Resolution> {
        let key = self.key(service);
        let watches = &self.client.inner.watches;
        let (sender, receiver, counters) = match watches.subscribe(&key) {
            JoinResult::Running(receiver) => return receiver,
            JoinResult::New(sender, receiver, counters) => (sender, receiver, counters),
        };
        let health = HealthResource {
            client: self.client.clone(),
            service: service.clone(),
            discovery: self.discovery.clone(),
            counters,
            logged: Mutex::default(),
        };
        tokio::spawn(watch_health(health, self.pace, key, sender));
        receiver
    }

    fn scope(&self) -> String {
        let mut query = self.client.inner.scope.as_query();
        query.extend(self.discovery.datacenter.clone().map(|dc| ("dc", dc)));
        query.extend(self.discovery.filter.clone().map(|filter| ("filter", filter)));
        super::path::query(&query)
    }

    fn counters(&self, service: &ServiceName) -> Option<Arc<RegistryCounters>> {
        self.client.inner.watches.counters(&self.key(service))
    }
}

/// Watches one service until its last receiver is dropped.
async fn watch_health(health: HealthResource, pace: Pace, key: Key, sender: Arc<watch::Sender<Resolution>>) {
    let client = health.client.clone();
    let followed = follow(&client, &health, pace, |event| {
        sender.send_if_modified(|resolution| publish(resolution, event));
    });
    tokio::pin!(followed);
    loop {
        tokio::select! {
            () = sender.closed() => {
                if client.inner.watches.leave(&key, &sender) {
                    return;
                }
            }
            () = &mut followed => return,
        }
    }
}

fn publish(resolution: &mut Resolution, event: WatchEvent<'_, &HealthSnapshot>) -> bool {
    match event {
        WatchEvent::Changed(snapshot) => {
            let instances = snapshot.found.instances.clone();
            *resolution = Resolution { error: snapshot.hint.clone(), ..Resolution::found(instances) };
        }
        WatchEvent::Recovered(snapshot) => {
            resolution.error.clone_from(&snapshot.hint);
            resolution.stale_since = None;
        }
        WatchEvent::Failed(words) => return resolution.fail(words),
    }
    true
}

/// The content of a response.
struct HealthSnapshot {
    found: ServiceInstances,
    /// The reason for which it may be incomplete.
    hint: Option<Arc<str>>,
}

type Key = (String, Discovery);

/// The running watches, by key.
#[derive(Debug, Default)]
pub(super) struct RunningWatches(Mutex<HashMap<Key, RunningWatch>>);

/// A running watch.
#[derive(Debug)]
struct RunningWatch {
    sender: Weak<watch::Sender<Resolution>>,
    counters: Arc<RegistryCounters>,
}

enum JoinResult {
    Running(watch::Receiver<Resolution>),
    New(Arc<watch::Sender<Resolution>>, watch::Receiver<Resolution>, Arc<RegistryCounters>),
}

impl RunningWatches {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, RunningWatch>> {
        // A map of weak pointers is valid after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn subscribe(&self, key: &Key) -> JoinResult {
        let mut running = self.lock();
        if let Some(sender) = running.get(key).and_then(|watch| watch.sender.upgrade()) {
            return JoinResult::Running(sender.subscribe());
        }
        let (sender, receiver) = watch::channel(Resolution::default());
        let (sender, counters) = (Arc::new(sender), Arc::<RegistryCounters>::default());
        let watch = RunningWatch { sender: Arc::downgrade(&sender), counters: counters.clone() };
        running.insert(key.clone(), watch);
        JoinResult::New(sender, receiver, counters)
    }

    /// The counters of the running watch.
    fn counters(&self, key: &Key) -> Option<Arc<RegistryCounters>> {
        self.lock().get(key).map(|watch| watch.counters.clone())
    }

    /// Ends a watch without receivers; `false` if a new one has subscribed.
    fn leave(&self, key: &Key, sender: &watch::Sender<Resolution>) -> bool {
        let mut running = self.lock();
        let idle = sender.receiver_count() == 0;
        if idle {
            running.remove(key);
        }
        idle
    }
}

/// The health endpoint of a service.
struct HealthResource {
    client: Client,
    service: ServiceName,
    discovery: Discovery,
    counters: Arc<RegistryCounters>,
    /// The skipped entries that were logged and still exist.
    logged: Mutex<HashSet<SkippedEntry>>,
}

impl fmt::Display for HealthResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "service `{}`{}", self.service, self.discovery)
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl HealthResource {
    /// A resource that is never queried.
    fn offline() -> Self {
        Self {
            client: Client::builder("127.0.0.1:1").build().expect("an address"),
            service: "web".parse().expect("a name"),
            discovery: Discovery::default(),
            counters: Arc::default(),
            logged: Mutex::default(),
        }
    }
}

/// Fuzzes the parser of instances: whatever it accepts can be dialled, and its
/// texts are bounded.
#[cfg(feature = "fuzzing")]
pub fn fuzz_health(data: &[u8]) {
    match HealthResource::offline().read(&HttpResponse::with_body(data.to_vec())) {
        Ok(snapshot) => {
            for instance in snapshot.found.instances.iter() {
                assert!(instance.address.port() > 0 && instance.weight > 0, "{instance:?}");
                assert!(instance.reason.len() <= 1 << 10, "{instance:?}");
            }
        }
        Err(error) => assert!(error.to_string().len() <= crate::fuzzing::MAX_MESSAGE_LEN, "{error}"),
    }
}

impl Resource for HealthResource {
    type Value = HealthSnapshot;
    const BLOCKING: BlockingBy = BlockingBy::Index;

    fn call(&self) -> Result<HttpCall, Error> {
        self.discovery.query().call(self.service.as_str())
    }

    fn read(&self, response: &HttpResponse) -> Result<HealthSnapshot, Error> {
        let call = self.call()?;
        if !response.found {
            // Consul returns an empty list for an unknown service.
            let cause = format!("404 ({})", excerpt(&response.body));
            return Err(Error::Decode { addr: self.client.shown_addr(), path: call.path, cause });
        }
        let BoundedList(entries) = self.client.decode(&call, response)?;
        let hint = if entries.is_empty() { self.check_empty(&call, response)? } else { None };
        let (found, skipped) = instances::usable_instances(entries, self.discovery.datacenter.is_some());
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        for new in skipped.difference(&logged) {
            tracing::warn!(service = %self.service, "skipping an instance of service `{}`: {new}", self.service);
        }
        *logged = skipped;
        Ok(HealthSnapshot { found, hint })
    }

    fn compare(&self, current: Option<&HealthSnapshot>, new: &HealthSnapshot) -> Change {
        let (current, hints, new) = match current {
            None => return if new.found.instances.is_empty() { Change::Loses } else { Change::Differs },
            Some(current) => (&current.found, current.hint == new.hint, &new.found),
        };
        let ids: HashSet<&InstanceId> = new.instances.iter().map(|instance| &instance.id).collect();
        if current.instances.iter().any(|instance| !ids.contains(&instance.id)) {
            Change::Loses
        } else if hints && current.equals_ignoring_output(new) {
            Change::Same
        } else {
            Change::Differs
        }
    }

    fn counters(&self) -> Option<&RegistryCounters> {
        Some(&self.counters)
    }
}

impl HealthResource {
    /// A missing permission results in an empty response. For a token it is
    /// reported, and an error; for the anonymous token it is only a hint.
    fn check_empty(&self, call: &HttpCall, response: &HttpResponse) -> Result<Option<Arc<str>>, Error> {
        let (addr, has_token) = (self.client.shown_addr(), self.client.inner.transport.has_token());
        if response.meta.filtered && has_token {
            return Err(Error::Denied {
                addr,
                path: call.path.clone(),
                message: "the token may not read the results".to_owned(),
                needs: call.needs.clone(),
                token: TokenState::Lacking,
            });
        }
        let (service, needs) = (&self.service, &call.needs);
        let hint = || {
            format!(
                "Consul at {addr} lists no instance of `{service}` without a token; if there should be one, \
                 set CONSUL_HTTP_TOKEN to a token with {needs}"
            )
        };
        Ok((response.meta.denies && !has_token).then(|| hint().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"[{"Node": {"Node": "n", "Address": "127.0.0.1", "TaggedAddresses": null},
        "Service": {"ID": "web-1", "Service": "web", "Tags": ["a"], "Address": "10.0.0.1", "Port": 9001,
            "Meta": {"version": "v2"}, "Weights": {"Passing": 10, "Warning": 1}},
        "Checks": [{"CheckID": "c", "Status": "passing", "Interval": "1s", "Output": "ok"}]}]"#;

    #[test]
    fn no_mutation_of_an_answer_does_harm() {
        let health = HealthResource::offline();
        assert_eq!(health.read(&HttpResponse::with_body(ANSWER.into())).unwrap().found.instances.len(), 1);
        let mut random = fastrand::Rng::with_seed(7);
        let (mut read, mut refused) = (0, 0);
        for _ in 0..2_000 {
            let mut body = ANSWER.as_bytes().to_vec();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..body.len());
                match random.u8(..4) {
                    0 => body[at] = random.u8(..),
                    1 => body.truncate(at.max(1)),
                    2 => drop(body.remove(at)),
                    _ => body.insert(at, b"[]{},:\"0-"[random.usize(..9)]),
                }
                if body.is_empty() {
                    body.push(b' ');
                }
            }
            match health.read(&HttpResponse::with_body(body)) {
                // Whatever was accepted can be dialled, and its texts are
                // bounded.
                Ok(snapshot) => {
                    read += snapshot
                        .found
                        .instances
                        .iter()
                        .filter(|instance| instance.address.port() > 0)
                        .count();
                }
                Err(e) => {
                    assert!(matches!(e, Error::Decode { .. }) && e.to_string().len() < 900, "{e}");
                    refused += 1;
                }
            }
        }
        assert!(read > 50 && refused > 50, "{read} read, {refused} refused");
    }

    #[test]
    fn every_change_counts_for_what_it_is() {
        let health = HealthResource::offline();
        let read = |body: &str| health.read(&HttpResponse::with_body(body.into())).unwrap();
        let one = read(ANSWER);
        let other = ANSWER.replace("web-1", "web-2").replace("9001", "9003");
        let renamed = ANSWER.replace("web-1", "web-2");
        let both = read(&format!("{},{}", ANSWER.trim_end_matches(']'), &other[1..]));
        let cases = [
            (None, &one, Change::Differs),
            (None, &read("[]"), Change::Loses),
            (Some(&one), &read(&ANSWER.replace("\"ok\"", "\"well\"")), Change::Same),
            (Some(&one), &read(&ANSWER.replace("passing", "critical")), Change::Differs),
            (Some(&one), &read(&ANSWER.replace("v2", "v3")), Change::Differs),
            (Some(&one), &read(&ANSWER.replace("9001", "9002")), Change::Loses),
            (Some(&one), &read(&renamed), Change::Loses),
            (Some(&one), &both, Change::Differs),
            (Some(&both), &one, Change::Loses),
            (Some(&one), &read(&other), Change::Loses),
            (Some(&one), &read("[]"), Change::Loses),
        ];
        for (i, (current, new, change)) in cases.into_iter().enumerate() {
            assert_eq!(health.compare(current, new), change, "case {i}");
        }
    }
}
