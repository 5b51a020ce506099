//! Outlier detection on the members of a pool, and the probes that end an
//! ejection.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::{
    super::{
        connection::Connection,
        health_check::{self, HealthCheckConfig},
    },
    Pool,
    member::Member,
};
use crate::{
    code::Code,
    health::{Detector, OutlierCandidate, ProbeState, Sweep},
    outcome::{Cause, Outcome},
};

/// The time for which an instance on probation waits for a call that may be
/// retried; then a health check probes it.
const HEALTH_PROBE_DELAY: Duration = Duration::from_secs(1);

impl Pool {
    /// Runs a step of outlier detection on the members; returns whether it
    /// changed any.
    pub(super) fn detect_outliers(
        &mut self,
        with: impl FnOnce(&mut Detector, &mut [OutlierCandidate<'_>], Instant) -> Sweep,
    ) -> bool {
        let Some(detector) = &mut self.detector else { return false };
        let mut candidates: Vec<_> = self.members.values_mut().map(Member::outlier_candidate).collect();
        let sweep = with(detector, &mut candidates, Instant::now());
        (0..sweep.unenforced).for_each(|_| self.counters.ejections_unenforced.add());
        for &ejected in &sweep.ejected {
            if let Some((id, member)) = self.members.iter().nth(ejected) {
                self.counters.ejections.add();
                warn!(service = %self.service, instance = %id, "`{id}` gets no calls for a while: {}", member.cause());
            }
        }
        sweep.changed
    }

    /// Applies the results of probes; returns whether any was there.
    pub(super) fn settle_probes(&mut self) -> bool {
        let now = Instant::now();
        let Some(detector) = &self.detector else { return false };
        let mut changed = false;
        for (id, member) in &mut self.members {
            let Some(probe_slot) = &member.probe_slot else { continue };
            let outlasts = member.probe_started.is_some_and(|since| since + self.config.deadline <= now);
            match probe_slot.probe.state() {
                ProbeState::Offered if probe_slot.since + HEALTH_PROBE_DELAY > now => continue,
                ProbeState::Offered => {
                    if let Some(query) = member.health.clone()
                        && let Some(connection) = probe_slot.claim()
                    {
                        member.health_probe = Some(health_probe(connection, query, self.config.deadline));
                        continue;
                    }
                    // There is no health check: the ejection ends with its
                    // time, as in gRFC A50.
                    member.ejection.restore(&member.record, now);
                }
                ProbeState::InFlight if !outlasts => {
                    member.probe_started.get_or_insert(now);
                    continue;
                }
                ProbeState::Passed => {
                    info!(service = %self.service, instance = %id, "`{id}` gets calls again: its probe succeeded");
                    member.ejection.restore(&member.record, now);
                }
                ProbeState::Failed => {
                    self.counters.ejections.add();
                    detector.eject_again(&mut member.outlier_candidate(), now);
                }
                // A probe that lasts longer than a deadline shows as little as
                // one that its caller dropped. The next comes after another
                // ejection, which bounds the rate of probes.
                ProbeState::InFlight | ProbeState::Undecided => {
                    detector.extend(&mut member.outlier_candidate(), now);
                }
            }
            (member.probe_slot, member.probe_started, member.health_probe) = (None, None, None);
            changed = true;
        }
        changed
    }

    /// The time at which the probe of `member` times out: a health check
    /// replaces a call that did not come, or a call has had its time.
    pub(super) fn probe_due(&self, member: &Member) -> Option<Instant> {
        match (&member.probe_slot, member.probe_started) {
            (_, Some(since)) => Some(since + self.config.deadline),
            (Some(probe_slot), None) if member.health_probe.is_none() => {
                Some(probe_slot.since + HEALTH_PROBE_DELAY)
            }
            _ => None,
        }
    }
}

/// Probes an instance on probation by a health check. An instance without a
/// health service has answered, which suffices.
fn health_probe(
    connection: Arc<Connection>,
    query: HealthCheckConfig,
    deadline: Duration,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let outcome = timeout(deadline, health_check::check_once(&connection, &query));
        let expired = Outcome { code: Code::DEADLINE_EXCEEDED, cause: Cause::DeadlineExceeded };
        connection.observe(outcome.await.unwrap_or(expired));
    }))
}
