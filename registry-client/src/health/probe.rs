//! The one call that decides whether an ejected instance returns.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering::Relaxed},
};

use super::record::FailureRules;
use crate::outcome::{Evidence, Outcome};

/// The state of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProbeState {
    /// No call has claimed the slot.
    Offered,
    /// A call is in flight.
    InFlight,
    /// The call succeeded.
    Passed,
    /// The call failed.
    Failed,
    /// The call was inconclusive, for example because its caller dropped it.
    Undecided,
}

/// One call to an instance on probation; each change of its state wakes outlier
/// detection.
#[derive(Debug)]
pub(crate) struct Probe {
    state: AtomicU8,
    rules: Arc<FailureRules>,
}

const STATES: [ProbeState; 5] = [
    ProbeState::Offered,
    ProbeState::InFlight,
    ProbeState::Passed,
    ProbeState::Failed,
    ProbeState::Undecided,
];

impl Probe {
    pub(crate) fn new(rules: Arc<FailureRules>) -> Self {
        Self { state: AtomicU8::new(ProbeState::Offered as u8), rules }
    }

    pub(crate) fn state(&self) -> ProbeState {
        STATES[usize::from(self.state.load(Relaxed))]
    }

    /// Records that a call has claimed the slot; the slot ensures that only one
    /// does.
    pub(crate) fn take(&self) {
        self.transition(ProbeState::Offered, ProbeState::InFlight);
    }

    /// Records the outcome of the call.
    pub(crate) fn observe(&self, outcome: Outcome) {
        let state = match self.rules.evidence(outcome) {
            Evidence::Success => ProbeState::Passed,
            Evidence::Failure | Evidence::WeakFailure => ProbeState::Failed,
            Evidence::Nothing => ProbeState::Undecided,
        };
        self.transition(ProbeState::InFlight, state);
    }

    /// Records that the call was dropped; without an outcome it is
    /// inconclusive.
    pub(crate) fn drop_call(&self) {
        self.transition(ProbeState::InFlight, ProbeState::Undecided);
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
            let probe = Probe::new(Arc::new(FailureRules::new(&OutlierConfig::default())));
            probe.observe(ended(Cause::ConnectionLost));
            assert_eq!(probe.state(), ProbeState::Offered, "no call claimed it, so it has no end");
            probe.take();
            assert_eq!(probe.state(), ProbeState::InFlight);
            for &outcome in outcomes {
                probe.observe(outcome);
            }
            probe.drop_call();
            assert_eq!(probe.state(), state);
        }
    }
}
