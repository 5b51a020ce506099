//! What is told while the registry says nothing, or much less than it did.

use std::{collections::HashSet, time::Duration};

use tokio::time::Instant;
use tracing::{info, warn};

use super::file::Snapshot;
use crate::{
    instance::{Instance, ServiceName},
    resolve::Resolution,
};

/// How long a remembered set is told beside a first response that is much
/// smaller: long enough for its instances to be connected to, after which the
/// channel keeps those that answer.
pub(super) const TRIAL: Duration = Duration::from_secs(10);

/// A snapshot, for as long as the registry has not said anything better.
#[derive(Debug)]
pub(super) struct Recall {
    service: ServiceName,
    /// `None` once the registry's own word holds.
    snapshot: Option<Snapshot>,
    /// Until when a much smaller first response is not alone believed.
    trial: Option<Instant>,
    said: Said,
}

/// What was last logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    Silent,
    Fewer,
}

impl Recall {
    pub(super) fn new(service: ServiceName, snapshot: Option<Snapshot>) -> Self {
        Self { service, snapshot, trial: None, said: Said::Nothing }
    }

    /// When [`show`](Self::show) is to be asked again though nothing changed.
    pub(super) fn due(&self) -> Option<Instant> {
        self.trial.filter(|_| self.snapshot.is_some())
    }

    /// What to tell when the registry says `now`.
    pub(super) fn show(&mut self, now: &Resolution) -> Resolution {
        let Some(snapshot) = &self.snapshot else { return now.clone() };
        let remembered = |instances| Resolution {
            instances: Some(instances),
            remembered: Some(snapshot.saved),
            ..now.clone()
        };
        let Some(listed) = now.instances.as_deref() else {
            let shown = remembered(snapshot.instances.clone());
            self.say(Said::Silent, now);
            return shown;
        };
        // What is told beside an error is not the registry's whole word.
        self.trial = match (&now.error, self.trial) {
            (Some(_), _) => None,
            (None, running) => running.or_else(|| Some(Instant::now() + TRIAL)),
        };
        if snapshot.collapses_to(listed) && self.trial.is_none_or(|end| Instant::now() < end) {
            let shown = remembered(both(listed, &snapshot.instances).into());
            self.say(Said::Fewer, now);
            return shown;
        }
        if self.said != Said::Nothing {
            let (service, instances) = (&self.service, listed.len());
            info!(%service, instances, "the registry answers: it lists {instances} instances of `{service}`, and the snapshot is no longer used");
        }
        self.snapshot = None;
        now.clone()
    }

    /// Says once what the snapshot is used for.
    fn say(&mut self, what: Said, now: &Resolution) {
        let Some(snapshot) = self.snapshot.as_ref().filter(|_| self.said != what) else { return };
        self.said = what;
        let (service, instances, age) = (&self.service, snapshot.instances.len(), snapshot.age());
        let age_s = age.as_secs();
        match now.instances.as_deref() {
            None => {
                let error = now.error.as_deref().unwrap_or("it has not answered yet");
                warn!(%service, instances, age_s, error, "the registry does not tell the instances of `{service}` ({error}); the {instances} of a snapshot that is {age:?} old are used");
            }
            Some(listed) => {
                let listed = listed.len();
                info!(%service, instances, listed, age_s, "the registry lists {listed} instances of `{service}` where a snapshot that is {age:?} old has {instances}; those that are missing are tried too");
            }
        }
    }
}

/// All of `listed`, and what it lacks of `remembered`.
fn both(listed: &[Instance], remembered: &[Instance]) -> Vec<Instance> {
    // By address: a process may be registered under another id since.
    let there: HashSet<_> = listed.iter().map(|instance| &instance.address).collect();
    let missing = remembered.iter().filter(|instance| !there.contains(&instance.address));
    listed.iter().chain(missing).cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn instances(ports: &[u16]) -> Vec<Instance> {
        let at =
            |port: &u16| Instance::new(&format!("i{port}"), format!("127.0.0.1:{port}").parse().unwrap());
        ports.iter().map(at).collect()
    }

    fn recall(ports: &[u16]) -> Recall {
        let saved = SystemTime::now() - Duration::from_secs(60);
        let snapshot = Snapshot { saved, instances: instances(ports).into() };
        Recall::new("web".parse().unwrap(), Some(snapshot))
    }

    fn failed(words: &str, ports: Option<&[u16]>) -> Resolution {
        Resolution {
            instances: ports.map(|ports| instances(ports).into()),
            error: Some(words.into()),
            ..Resolution::default()
        }
    }

    fn ports(shown: &Resolution) -> Vec<u16> {
        shown.instances.iter().flat_map(|all| all.iter()).map(|i| i.address.port()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_registry_leaves_the_snapshot_with_its_date_and_the_error() {
        let mut recall = recall(&[1, 2]);
        let shown = recall.show(&failed("refused", None));
        assert_eq!((ports(&shown), shown.error.as_deref()), (vec![1, 2], Some("refused")));
        assert!(shown.remembered.unwrap().elapsed().unwrap() >= Duration::from_secs(60));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_real_answer_ends_it_for_good() {
        let mut recall = recall(&[1, 2]);
        recall.show(&Resolution::default());
        let answer = Resolution::found(instances(&[2]));
        assert_eq!(recall.show(&answer), answer);
        assert_eq!(recall.due(), None);
        let empty = Resolution::found(Vec::new());
        assert_eq!(recall.show(&empty), empty);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_lost_most_is_believed_alone_only_after_the_trial() {
        let mut recall = recall(&[1, 2, 3]);
        let answer = Resolution::found(instances(&[9]));
        let shown = recall.show(&answer);
        assert_eq!(ports(&shown), [9, 1, 2, 3]);
        assert!(shown.remembered.is_some());
        tokio::time::sleep(TRIAL / 2).await;
        assert_eq!(recall.show(&answer), shown);
        tokio::time::sleep_until(recall.due().unwrap()).await;
        assert_eq!(recall.show(&answer), answer);
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_answer_beside_an_error_is_not_believed_however_long_it_stands() {
        let mut recall = recall(&[1]);
        let hinted = failed("who has no token sees none", Some(&[]));
        assert_eq!(ports(&recall.show(&hinted)), [1]);
        tokio::time::sleep(TRIAL * 100).await;
        assert_eq!(ports(&recall.show(&hinted)), [1]);
        assert_eq!(recall.due(), None);
        assert_eq!(ports(&recall.show(&Resolution::found(instances(&[])))), [1]);
        assert!(recall.due().is_some(), "from now on it counts");
    }
}
