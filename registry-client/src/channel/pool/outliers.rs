//! How the pool lets outlier detection judge its members, and what it makes of
//! the calls that try an ejected one.

use tokio::time::Instant;
use tracing::{info, warn};

use super::{Pool, member::Member};
use crate::health::{Detector, Judged, Probed, Subject};

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
            // One that goes on for longer than a call may is a stream, and well.
            let lasts = member.probed.is_some_and(|since| since + self.config.deadline <= now);
            match offer.probe.state() {
                Probed::Offered => continue,
                Probed::Taken if !lasts => {
                    member.probed.get_or_insert(now);
                    continue;
                }
                Probed::Taken | Probed::Passed => {
                    info!(service = %self.service, instance = %id, "`{id}` gets calls again: the one that tried it succeeded");
                    member.standing.restore(&member.record, now);
                }
                Probed::Failed => {
                    self.counters.ejections.add();
                    detector.relapse(&mut member.subject(), now);
                }
                Probed::Dropped => {}
            }
            (member.offer, member.probed) = (None, None);
            changed = true;
        }
        changed
    }

    /// Until when the probe of `member` may go on before it counts as passed.
    pub(super) fn probe_ends(&self, member: &Member) -> Option<Instant> {
        member.probed.map(|since| since + self.config.deadline)
    }
}
