//! The instances of a service as Consul knows them, and every change.

mod discovery;
mod instances;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::watch;

pub use self::discovery::Discovery;
use self::instances::{Found, Omitted};
use super::{
    Client, Error, TokenState,
    error::said,
    http::{Answer, Call},
    watch::{Change, News, Resource, cursor::By, follow, pace::Pace},
    wire::Bounded,
};
use crate::{
    instance::{InstanceId, ServiceName},
    resolve::{RegistryCounters, Resolution, Resolver},
};

/// Resolves services by Consul's health endpoint. Cheap to clone.
///
/// Every instance is told, whatever its checks say: the channel decides what to
/// do with a critical one. Reads may be answered by any server, so that
/// discovery goes on while there is no leader. An empty response is told as an
/// empty set; whether to believe it is the channel's business. One watch per
/// service, datacenter and filter serves all resolvers of one [`Client`] and
/// its clones; it ends when nobody looks.
#[derive(Clone, Debug)]
pub struct ConsulResolver {
    client: Client,
    discovery: Discovery,
    pace: Pace,
}

impl ConsulResolver {
    /// A resolver that asks by `client`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, discovery: Discovery::default(), pace: Pace::default() }
    }

    /// The instances that `discovery` describes, and no others.
    #[must_use]
    pub fn with_discovery(mut self, discovery: Discovery) -> Self {
        self.discovery = discovery;
        self
    }

    /// Only the instances that match a filter expression of Consul's, such as
    /// `Service.Meta.version == "v2"`.
    #[must_use]
    pub fn with_filter(mut self, expression: impl Into<String>) -> Self {
        self.discovery.filter = Some(expression.into());
        self
    }

    /// The instances of another datacenter, at their WAN addresses.
    #[must_use]
    pub fn with_datacenter(mut self, datacenter: impl Into<String>) -> Self {
        self.discovery.datacenter = Some(datacenter.into());
        self
    }

    fn key(&self, service: &ServiceName) -> Key {
        // Consul looks service names up without regard to case.
        (service.as_str().to_ascii_lowercase(), self.discovery.clone())
    }
}

impl Resolver for ConsulResolver {
    fn resolve(&self, service: &ServiceName) -> watch::Receiver<Resolution> {
        let key = self.key(service);
        let shared = &self.client.inner.shared;
        let (sender, receiver, counters) = match shared.join(&key) {
            Joined::Running(receiver) => return receiver,
            Joined::New(sender, receiver, counters) => (sender, receiver, counters),
        };
        let health = HealthResource {
            client: self.client.clone(),
            service: service.clone(),
            discovery: self.discovery.clone(),
            counters,
            warned: Mutex::default(),
        };
        tokio::spawn(watch_health(health, self.pace, key, sender));
        receiver
    }

    fn scope(&self) -> String {
        let mut asked = self.client.inner.scope.as_query();
        asked.extend(self.discovery.datacenter.clone().map(|dc| ("dc", dc)));
        asked.extend(self.discovery.filter.clone().map(|filter| ("filter", filter)));
        super::path::query(&asked)
    }

    fn counters(&self, service: &ServiceName) -> Option<Arc<RegistryCounters>> {
        self.client.inner.shared.counters(&self.key(service))
    }
}

/// Follows one service until nobody looks.
async fn watch_health(health: HealthResource, pace: Pace, key: Key, sender: Arc<watch::Sender<Resolution>>) {
    let client = health.client.clone();
    let followed = follow(&client, &health, pace, |news| {
        sender.send_if_modified(|resolution| publish(resolution, news));
    });
    tokio::pin!(followed);
    loop {
        tokio::select! {
            () = sender.closed() => {
                if client.inner.shared.leave(&key, &sender) {
                    return;
                }
            }
            () = &mut followed => return,
        }
    }
}

fn publish(resolution: &mut Resolution, news: News<'_, &Told>) -> bool {
    match news {
        News::Changed(told) => {
            let instances = told.found.instances.clone();
            *resolution = Resolution { error: told.hint.clone(), ..Resolution::found(instances) };
        }
        News::Recovered(told) => {
            resolution.error.clone_from(&told.hint);
            resolution.stale_since = None;
        }
        News::Failed(words) => return resolution.fail(words),
    }
    true
}

/// What a response told.
struct Told {
    found: Found,
    /// Why it may not be all, in words.
    hint: Option<Arc<str>>,
}

type Key = (String, Discovery);

/// The watches that run, by what they look at.
#[derive(Debug, Default)]
pub(super) struct Shared(Mutex<HashMap<Key, RunningWatch>>);

/// A running watch, for those who join it.
#[derive(Debug)]
struct RunningWatch {
    sender: Weak<watch::Sender<Resolution>>,
    counters: Arc<RegistryCounters>,
}

enum Joined {
    Running(watch::Receiver<Resolution>),
    New(Arc<watch::Sender<Resolution>>, watch::Receiver<Resolution>, Arc<RegistryCounters>),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, RunningWatch>> {
        // A map of weak pointers is sound whatever its last user panicked at.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, key: &Key) -> Joined {
        let mut running = self.lock();
        if let Some(sender) = running.get(key).and_then(|watch| watch.sender.upgrade()) {
            return Joined::Running(sender.subscribe());
        }
        let (sender, receiver) = watch::channel(Resolution::default());
        let (sender, counters) = (Arc::new(sender), Arc::<RegistryCounters>::default());
        let watch = RunningWatch { sender: Arc::downgrade(&sender), counters: counters.clone() };
        running.insert(key.clone(), watch);
        Joined::New(sender, receiver, counters)
    }

    /// The counters of the running watch.
    fn counters(&self, key: &Key) -> Option<Arc<RegistryCounters>> {
        self.lock().get(key).map(|watch| watch.counters.clone())
    }

    /// False when somebody joined since the last one left.
    fn leave(&self, key: &Key, sender: &watch::Sender<Resolution>) -> bool {
        let mut running = self.lock();
        let idle = sender.receiver_count() == 0;
        if idle {
            running.remove(key);
        }
        idle
    }
}

/// The health of a service, followed.
struct HealthResource {
    client: Client,
    service: ServiceName,
    discovery: Discovery,
    counters: Arc<RegistryCounters>,
    /// What was left out and said so, as far as it is still there.
    warned: Mutex<HashSet<Omitted>>,
}

impl fmt::Display for HealthResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "service `{}`{}", self.service, self.discovery)
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl HealthResource {
    /// Asks nobody.
    fn of_nobody() -> Self {
        Self {
            client: Client::builder("127.0.0.1:1").build().expect("an address"),
            service: "web".parse().expect("a name"),
            discovery: Discovery::default(),
            counters: Arc::default(),
            warned: Mutex::default(),
        }
    }
}

/// An agent's response of a service's instances: whatever was read can be
/// dialled, and its words are bounded.
#[cfg(feature = "fuzzing")]
pub fn fuzz_health(data: &[u8]) {
    match HealthResource::of_nobody().read(&Answer::with_body(data.to_vec())) {
        Ok(told) => {
            for instance in told.found.instances.iter() {
                assert!(instance.address.port() > 0 && instance.weight > 0, "{instance:?}");
                assert!(instance.reason.len() <= 1 << 10, "{instance:?}");
            }
        }
        Err(error) => assert!(error.to_string().len() <= crate::fuzzing::MOST_SAID, "{error}"),
    }
}

impl Resource for HealthResource {
    type Value = Told;
    const BY: By = By::Index;

    fn call(&self) -> Result<Call, Error> {
        self.discovery.query().call(self.service.as_str())
    }

    fn read(&self, answer: &Answer) -> Result<Told, Error> {
        let call = self.call()?;
        if !answer.found {
            // Consul answers an unknown service with an empty list.
            let cause = format!("404 ({})", said(&answer.body));
            return Err(Error::Decode { addr: self.client.shown(), path: call.path, cause });
        }
        let Bounded(entries) = self.client.decode(&call, answer)?;
        let hint = if entries.is_empty() { self.doubt_nothing(&call, answer)? } else { None };
        let (found, omitted) = instances::of(entries, self.discovery.datacenter.is_some());
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        for new in omitted.difference(&warned) {
            tracing::warn!(service = %self.service, "left out of service `{}`: {new}", self.service);
        }
        *warned = omitted;
        Ok(Told { found, hint })
    }

    fn compare(&self, held: Option<&Told>, new: &Told) -> Change {
        let (held, hints, new) = match held {
            None => return if new.found.instances.is_empty() { Change::Loses } else { Change::Differs },
            Some(held) => (&held.found, held.hint == new.hint, &new.found),
        };
        let ids: HashSet<&InstanceId> = new.instances.iter().map(|instance| &instance.id).collect();
        if held.instances.iter().any(|instance| !ids.contains(&instance.id)) {
            Change::Loses
        } else if hints && held.is_like(new) {
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
    /// A missing right shows as an empty response. That of a token is told, and
    /// the response is none; that of nobody's token can only be guessed.
    fn doubt_nothing(&self, call: &Call, answer: &Answer) -> Result<Option<Arc<str>>, Error> {
        let (addr, has_token) = (self.client.shown(), self.client.inner.transport.has_token());
        if answer.meta.filtered && has_token {
            return Err(Error::Denied {
                addr,
                path: call.path.clone(),
                said: "what was found may not be seen".to_owned(),
                needs: call.needs.clone(),
                token: TokenState::Lacking,
            });
        }
        let (service, needs) = (&self.service, &call.needs);
        let hint = || {
            format!(
                "Consul at {addr} shows no instance of `{service}` to who has no token; if there should be one, \
                 set CONSUL_HTTP_TOKEN to a token with {needs}"
            )
        };
        Ok((answer.meta.denies && !has_token).then(|| hint().into()))
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
        let health = HealthResource::of_nobody();
        assert_eq!(health.read(&Answer::with_body(ANSWER.into())).unwrap().found.instances.len(), 1);
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
            match health.read(&Answer::with_body(body)) {
                // Whatever was read can be dialled, and its words are bounded.
                Ok(told) => {
                    read +=
                        told.found.instances.iter().filter(|instance| instance.address.port() > 0).count();
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
        let health = HealthResource::of_nobody();
        let read = |body: &str| health.read(&Answer::with_body(body.into())).unwrap();
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
        for (i, (held, new, change)) in cases.into_iter().enumerate() {
            assert_eq!(health.compare(held, new), change, "case {i}");
        }
    }
}
