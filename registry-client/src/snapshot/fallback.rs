//! The use of a snapshot while the registry does not respond, or lists much
//! less than before.

use std::{collections::HashSet, time::Duration};

use tokio::time::Instant;
use tracing::{info, warn};

use super::file::Snapshot;
use crate::{
    instance::{Instance, ServiceName},
    resolve::Resolution,
};

/// The time for which a snapshot is used beside a much smaller first response:
/// long enough to connect to its instances, after which the channel keeps those
/// that are connected.
pub(super) const TRIAL_PERIOD: Duration = Duration::from_secs(10);

/// A snapshot that is used until the registry has a better set.
#[derive(Debug)]
pub(super) struct Fallback {
    service: ServiceName,
    /// `None` once the registry's own set holds.
    snapshot: Option<Snapshot>,
    /// The time until which a much smaller first response does not hold alone.
    trial: Option<Instant>,
    logged: LogState,
}

/// The state that was last logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LogState {
    Nothing,
    Silent,
    Fewer,
}

impl Fallback {
    pub(super) fn new(service: ServiceName, snapshot: Option<Snapshot>) -> Self {
        Self { service, snapshot, trial: None, logged: LogState::Nothing }
    }

    /// The time at which [`resolution`](Self::resolution) changes by itself.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.trial.filter(|_| self.snapshot.is_some())
    }

    /// The resolution to publish when the registry has `now`.
    pub(super) fn resolution(&mut self, now: &Resolution) -> Resolution {
        let Some(snapshot) = &self.snapshot else { return now.clone() };
        let snapshot_saved_at = |instances| Resolution {
            instances: Some(instances),
            snapshot_saved_at: Some(snapshot.saved),
            ..now.clone()
        };
        let Some(listed) = now.instances.as_deref() else {
            let shown = snapshot_saved_at(snapshot.instances.clone());
            self.log_once(LogState::Silent, now);
            return shown;
        };
        // A set beside an error may be incomplete.
        self.trial = match (&now.error, self.trial) {
            (Some(_), _) => None,
            (None, running) => running.or_else(|| Some(Instant::now() + TRIAL_PERIOD)),
        };
        if snapshot.collapses_to(listed) && self.trial.is_none_or(|end| Instant::now() < end) {
            let shown = snapshot_saved_at(merge(listed, &snapshot.instances).into());
            self.log_once(LogState::Fewer, now);
            return shown;
        }
        if self.logged != LogState::Nothing {
            let (service, instances) = (&self.service, listed.len());
            info!(%service, instances, "the registry lists {instances} instances of `{service}`; the snapshot is no longer used");
        }
        self.snapshot = None;
        now.clone()
    }

    /// Logs the use of the snapshot once per state.
    fn log_once(&mut self, what: LogState, now: &Resolution) {
        let Some(snapshot) = self.snapshot.as_ref().filter(|_| self.logged != what) else { return };
        self.logged = what;
        let (service, instances, age) = (&self.service, snapshot.instances.len(), snapshot.age());
        let age_s = age.as_secs();
        match now.instances.as_deref() {
            None => {
                let error = now.error.as_deref().unwrap_or("it has not responded yet");
                warn!(%service, instances, age_s, error, "the registry cannot resolve `{service}` ({error}); using the {instances} instances of a snapshot that is {age:?} old");
            }
            Some(listed) => {
                let listed = listed.len();
                info!(%service, instances, listed, age_s, "the registry lists {listed} instances of `{service}`, a snapshot that is {age:?} old has {instances}; the missing ones are used too for a while");
            }
        }
    }
}

/// All of `listed`, and the instances that only the snapshot has.
fn merge(listed: &[Instance], snapshot_saved_at: &[Instance]) -> Vec<Instance> {
    // By address: a process may have another id by now.
    let there: HashSet<_> = listed.iter().map(|instance| &instance.address).collect();
    let missing = snapshot_saved_at.iter().filter(|instance| !there.contains(&instance.address));
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

    fn fallback(ports: &[u16]) -> Fallback {
        let saved = SystemTime::now() - Duration::from_secs(60);
        let snapshot = Snapshot { saved, instances: instances(ports).into() };
        Fallback::new("web".parse().unwrap(), Some(snapshot))
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
        let mut fallback = fallback(&[1, 2]);
        let shown = fallback.resolution(&failed("refused", None));
        assert_eq!((ports(&shown), shown.error.as_deref()), (vec![1, 2], Some("refused")));
        assert!(shown.snapshot_saved_at.unwrap().elapsed().unwrap() >= Duration::from_secs(60));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_real_answer_ends_it_for_good() {
        let mut fallback = fallback(&[1, 2]);
        fallback.resolution(&Resolution::default());
        let answer = Resolution::found(instances(&[2]));
        assert_eq!(fallback.resolution(&answer), answer);
        assert_eq!(fallback.next_timer(), None);
        let empty = Resolution::found(Vec::new());
        assert_eq!(fallback.resolution(&empty), empty);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_lost_most_is_believed_alone_only_after_the_trial() {
        let mut fallback = fallback(&[1, 2, 3]);
        let answer = Resolution::found(instances(&[9]));
        let shown = fallback.resolution(&answer);
        assert_eq!(ports(&shown), [9, 1, 2, 3]);
        assert!(shown.snapshot_saved_at.is_some());
        tokio::time::sleep(TRIAL_PERIOD / 2).await;
        assert_eq!(fallback.resolution(&answer), shown);
        tokio::time::sleep_until(fallback.next_timer().unwrap()).await;
        assert_eq!(fallback.resolution(&answer), answer);
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_answer_beside_an_error_is_not_believed_however_long_it_stands() {
        let mut fallback = fallback(&[1]);
        let hinted = failed("who has no token sees none", Some(&[]));
        assert_eq!(ports(&fallback.resolution(&hinted)), [1]);
        tokio::time::sleep(TRIAL_PERIOD * 100).await;
        assert_eq!(ports(&fallback.resolution(&hinted)), [1]);
        assert_eq!(fallback.next_timer(), None);
        assert_eq!(ports(&fallback.resolution(&Resolution::found(instances(&[])))), [1]);
        assert!(fallback.next_timer().is_some(), "from now on it counts");
    }
}
