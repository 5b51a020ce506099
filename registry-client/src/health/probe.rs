//! The one call that decides whether an ejected instance returns.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering::Relaxed},
};

use super::record::Rules;
use crate::outcome::{Evidence, Outcome};

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProbeState {
    /// No call has taken it.
    Offered,
    /// A call is under way.
    Taken,
    /// It succeeded.
    Passed,
    /// It failed.
    Failed,
    /// It ended without showing anything: its caller dropped it, say.
    Undecided,
}

/// One call that is let through to an instance on probation; whoever judges is
/// woken at each step of it.
#[derive(Debug)]
pub(crate) struct Probe {
    state: AtomicU8,
    rules: Arc<Rules>,
}

const STATES: [ProbeState; 5] =
    [ProbeState::Offered, ProbeState::Taken, ProbeState::Passed, ProbeState::Failed, ProbeState::Undecided];

impl Probe {
    pub(crate) fn new(rules: Arc<Rules>) -> Self {
        Self { state: AtomicU8::new(ProbeState::Offered as u8), rules }
    }

    pub(crate) fn state(&self) -> ProbeState {
        STATES[usize::from(self.state.load(Relaxed))]
    }

    /// A call takes it. Whoever offers it sees to it that only one does.
    pub(crate) fn take(&self) {
        self.transition(ProbeState::Offered, ProbeState::Taken);
    }

    /// The call ended.
    pub(crate) fn observe(&self, outcome: Outcome) {
        let state = match self.rules.evidence(outcome) {
            Evidence::Success => ProbeState::Passed,
            Evidence::Failure | Evidence::WeakFailure => ProbeState::Failed,
            Evidence::Nothing => ProbeState::Undecided,
        };
        self.transition(ProbeState::Taken, state);
    }

    /// The call is gone; if it had not ended, it showed nothing.
    pub(crate) fn drop_call(&self) {
        self.transition(ProbeState::Taken, ProbeState::Undecided);
    }

    fn transition(&self, from: ProbeState, to: ProbeState) {
        if self.state.compare_exchange(from as u8, to as u8, Relaxed, Relaxed).is_ok() {
            self.rules.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::OutlierConfig, *};
    use crate::{code::Code, outcome::Cause};

    #[test]
    fn the_first_end_of_a_taken_probe_holds() {
        let ok = Outcome::status(Code::OK);
        let ended = |cause| Outcome { code: Code::UNAVAILABLE, cause };
        for (outcomes, state) in [
            (&[ok, ended(Cause::ConnectionLost)][..], ProbeState::Passed),
            (&[ended(Cause::DeadlineExceeded), ok], ProbeState::Failed),
            (&[ended(Cause::CancelledLate), ok], ProbeState::Failed),
            (&[ended(Cause::Cancelled), ok], ProbeState::Undecided),
            (&[], ProbeState::Undecided),
        ] {
            let probe = Probe::new(Arc::new(Rules::new(&OutlierConfig::default())));
            probe.observe(ended(Cause::ConnectionLost));
            assert_eq!(probe.state(), ProbeState::Offered, "nobody took it, so it has no end");
            probe.take();
            assert_eq!(probe.state(), ProbeState::Taken);
            for &outcome in outcomes {
                probe.observe(outcome);
            }
            probe.drop_call();
            assert_eq!(probe.state(), state);
        }
    }
}
