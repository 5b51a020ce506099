//! How the pool lets outlier detection judge its members, and what it makes of
//! the calls that try an ejected one.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::{
    super::{
        connection::Connection,
        watch::{self, HealthQuery},
    },
    Pool,
    member::Member,
};
use crate::{
    code::Code,
    health::{Detector, Judged, Probed, Subject},
    outcome::{Cause, Outcome},
};

/// How long an instance on probation waits for a call that may be sent twice
/// before it is asked for its health instead.
const HEALTH_PROBE_DELAY: Duration = Duration::from_secs(1);

impl Pool {
    /// Lets outlier detection look at the members; whether that changed any.
    pub(super) fn judge(
        &mut self,
        with: impl FnOnce(&mut Detector, &mut [Subject<'_>], Instant) -> Judged,
    ) -> bool {
        let Some(detector) = &mut self.detector else { return false };
        let mut subjects: Vec<_> = self.members.values_mut().map(Member::subject).collect();
        let judged = with(detector, &mut subjects, Instant::now());
        (0..judged.unenforced).for_each(|_| self.counters.ejections_unenforced.add());
        for &ejected in &judged.ejected {
            if let Some((id, member)) = self.members.iter().nth(ejected) {
                self.counters.ejections.add();
                warn!(service = %self.service, instance = %id, "`{id}` gets no calls for a while; {}", member.cause());
            }
        }
        judged.changed
    }

    /// Takes in what probes have shown; whether that changed anything.
    pub(super) fn settle_probes(&mut self) -> bool {
        let now = Instant::now();
        let Some(detector) = &self.detector else { return false };
        let mut changed = false;
        for (id, member) in &mut self.members {
            let Some(offer) = &member.offer else { continue };
            let outlasts = member.probed.is_some_and(|since| since + self.config.deadline <= now);
            match offer.probe.state() {
                Probed::Offered if offer.since + HEALTH_PROBE_DELAY > now => continue,
                Probed::Offered => {
                    if let Some(query) = member.health.clone()
                        && let Some(connection) = offer.claim()
                    {
                        member.health_probe = Some(health_probe(connection, query, self.config.deadline));
                        continue;
                    }
                    // Nobody can be asked: as gRFC A50 has it, its time is over.
                    member.standing.restore(&member.record, now);
                }
                Probed::Taken if !outlasts => {
                    member.probed.get_or_insert(now);
                    continue;
                }
                Probed::Passed => {
                    info!(service = %self.service, instance = %id, "`{id}` gets calls again: the one that tried it succeeded");
                    member.standing.restore(&member.record, now);
                }
                Probed::Failed => {
                    self.counters.ejections.add();
                    detector.relapse(&mut member.subject(), now);
                }
                // One that goes on for so long shows as little as one that its
                // caller dropped; the next comes after another pause, so that
                // the rate of probes is bounded whatever callers do.
                Probed::Taken | Probed::Undecided => detector.extend(&mut member.subject(), now),
            }
            (member.offer, member.probed, member.health_probe) = (None, None, None);
            changed = true;
        }
        changed
    }

    /// When the probe of `member` is settled by time alone: a health check
    /// takes the place of a call that does not come, or a call has had its
    /// time.
    pub(super) fn probe_due(&self, member: &Member) -> Option<Instant> {
        match (&member.offer, member.probed) {
            (_, Some(since)) => Some(since + self.config.deadline),
            (Some(offer), None) if member.health_probe.is_none() => Some(offer.since + HEALTH_PROBE_DELAY),
            _ => None,
        }
    }
}

/// Tries an instance on probation by its health service. An instance without
/// one has answered, and that is all that can be asked of it.
fn health_probe(connection: Arc<Connection>, query: HealthQuery, limit: Duration) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let asked = timeout(limit, watch::ask_once(&connection, &query));
        let expired = Outcome { code: Code::DEADLINE_EXCEEDED, cause: Cause::DeadlineExceeded };
        connection.observe(asked.await.unwrap_or(expired));
    }))
}
