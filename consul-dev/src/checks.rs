//! Checks that the agent runs: one task each, which ends when its check is dropped.

mod grpc;
mod spec;
mod tcp;
mod ttl;

use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::debug;

pub(crate) use spec::{CheckContext, CheckSpec};

use crate::model::CheckStatus;
use crate::probe::{Probe, TaskGuard};
use crate::store::Store;

/// The shortest interval between two probes; a shorter one is raised to it.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// The default timeout of a probe.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// The limit on the output in bytes; a check may set a lower one.
const MAX_OUTPUT: usize = 4096;
/// The mean delay until changed output is written to the catalog while the status is the
/// same.
const OUTPUT_DELAY: Duration = Duration::from_secs(300);

/// Starts the probe of `spec`, which ends with the returned value.
pub(crate) fn start_probe(store: &Arc<Store>, check_id: &str, spec: &CheckSpec) -> Probe {
    let reporter = Reporter { store: Arc::downgrade(store), check_id: check_id.to_owned() };
    let max_output = spec.max_output();
    if spec.ttl.is_positive() {
        let (heartbeat, heartbeats) = watch::channel(String::new());
        let task = TaskGuard::spawn(ttl::expire(reporter, spec.ttl.as_std(), heartbeats));
        return Probe::new(task, Some(heartbeat), max_output);
    }
    let period = ProbeTiming {
        interval: spec.interval.as_std().max(MIN_INTERVAL),
        timeout: if spec.timeout.is_positive() { spec.timeout.as_std() } else { DEFAULT_TIMEOUT },
    };
    let thresholds = Thresholds::new(spec);
    let task = if spec.grpc.is_empty() {
        let target = tcp::Target::new(spec);
        TaskGuard::spawn(repeat(reporter, period, thresholds, move || target.clone().probe(period.timeout)))
    } else {
        let target = grpc::Target::new(spec);
        TaskGuard::spawn(repeat(reporter, period, thresholds, move || target.clone().probe(period.timeout)))
    };
    Probe::new(task, None, max_output)
}

/// The handle with which a check's task reports its results.
#[derive(Debug)]
struct Reporter {
    store: Weak<Store>,
    check_id: String,
}

impl Reporter {
    fn report(&self, status: CheckStatus, output: String) {
        if let Some(store) = self.store.upgrade() {
            set_status(&store, &self.check_id, status, output);
        }
    }
}

/// Sets a check's status; output alone is written to the catalog some minutes
/// later.
pub(crate) fn set_status(store: &Arc<Store>, check_id: &str, status: CheckStatus, output: String) {
    let defer = || {
        let (store, id) = (Arc::downgrade(store), check_id.to_owned());
        let delay = OUTPUT_DELAY / 2 + OUTPUT_DELAY.mul_f64(fastrand::f64());
        TaskGuard::spawn(async move {
            sleep(delay).await;
            if let Some(store) = store.upgrade() {
                store.write(|state| state.push_check(&id));
            }
        })
    };
    store.write(|state| state.update_check(check_id, status, output, defer));
}

#[derive(Debug, Clone, Copy)]
struct ProbeTiming {
    interval: Duration,
    timeout: Duration,
}

/// Probes repeatedly, first at a random point of the first interval, so that checks registered together spread
/// out.
async fn repeat<F>(
    reporter: Reporter,
    period: ProbeTiming,
    mut thresholds: Thresholds,
    mut probe: impl FnMut() -> F,
) where
    F: Future<Output = Result<String, String>>,
{
    sleep(period.interval.mul_f64(fastrand::f64())).await;
    loop {
        // The probes have timeouts per step, for a precise error; this is the overall one.
        let result = timeout(period.timeout + MIN_INTERVAL, probe())
            .await
            .unwrap_or_else(|_| Err(format!("no response within {:?}", period.timeout)));
        let (status, output) = match result {
            Ok(output) => (CheckStatus::Passing, output),
            Err(output) => (CheckStatus::Critical, output),
        };
        match thresholds.observe(status) {
            Some(status) => reporter.report(status, output),
            None => {
                debug!(check = %reporter.check_id, %status, "the check has not reached its threshold yet");
            }
        }
        sleep(period.interval).await;
    }
}

/// The number of consecutive results that change a check's status.
#[derive(Debug)]
struct Thresholds {
    before_passing: i64,
    before_warning: i64,
    before_critical: i64,
    successes: i64,
    failures: i64,
}

impl Thresholds {
    fn new(spec: &CheckSpec) -> Self {
        let before_critical = spec.failures_before_critical;
        let before_warning =
            if spec.failures_before_warning == 0 { before_critical } else { spec.failures_before_warning };
        Self {
            before_passing: spec.success_before_passing,
            before_warning,
            before_critical,
            // The first result counts, whatever the thresholds.
            successes: spec.success_before_passing,
            failures: before_critical,
        }
    }

    /// The status to set after one more result; `None` leaves it as it is.
    fn observe(&mut self, status: CheckStatus) -> Option<CheckStatus> {
        if status == CheckStatus::Critical {
            self.failures += 1;
            self.successes = 0;
            if self.failures >= self.before_critical {
                return Some(CheckStatus::Critical);
            }
            return (self.failures >= self.before_warning).then_some(CheckStatus::Warning);
        }
        self.successes += 1;
        self.failures = 0;
        (self.successes >= self.before_passing).then_some(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_changes_only_after_its_threshold() {
        let mut thresholds = Thresholds::new(&CheckSpec {
            success_before_passing: 2,
            failures_before_warning: 2,
            failures_before_critical: 3,
            ..CheckSpec::default()
        });
        let mut observe = |status| thresholds.observe(status);
        assert_eq!(
            observe(CheckStatus::Passing),
            Some(CheckStatus::Passing),
            "the first result counts at once"
        );
        assert_eq!(observe(CheckStatus::Critical), None);
        assert_eq!(observe(CheckStatus::Critical), Some(CheckStatus::Warning));
        assert_eq!(observe(CheckStatus::Critical), Some(CheckStatus::Critical));
        assert_eq!(observe(CheckStatus::Passing), None);
        assert_eq!(observe(CheckStatus::Passing), Some(CheckStatus::Passing));
    }
}
