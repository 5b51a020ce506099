//! The one call that decides whether an ejected instance returns.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering::Relaxed},
};

use super::{Ended, record::Rules};

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probed {
    /// No call has taken it.
    Offered,
    /// A call is under way.
    Taken,
    /// It succeeded.
    Passed,
    /// It failed.
    Failed,
    /// Its caller gave it up.
    Dropped,
}

/// One call that is let through to an instance on probation; whoever judges is
/// woken at each step of it.
#[derive(Debug)]
pub(crate) struct Probe {
    state: AtomicU8,
    rules: Arc<Rules>,
}

const STATES: [Probed; 5] = [Probed::Offered, Probed::Taken, Probed::Passed, Probed::Failed, Probed::Dropped];

impl Probe {
    pub(crate) fn new(rules: Arc<Rules>) -> Self {
        Self { state: AtomicU8::new(Probed::Offered as u8), rules }
    }

    pub(crate) fn state(&self) -> Probed {
        STATES[usize::from(self.state.load(Relaxed))]
    }

    /// A call takes it. Whoever offers it sees to it that only one does.
    pub(crate) fn take(&self) {
        self.go(Probed::Offered, Probed::Taken);
    }

    /// The call ended.
    pub(crate) fn observe(&self, ended: Ended) {
        let outcome = if self.rules.is_failure(ended) { Probed::Failed } else { Probed::Passed };
        self.go(Probed::Taken, outcome);
    }

    /// The call is gone; if it had not ended, it told nothing.
    pub(crate) fn drop_call(&self) {
        self.go(Probed::Taken, Probed::Dropped);
    }

    fn go(&self, from: Probed, to: Probed) {
        if self.state.compare_exchange(from as u8, to as u8, Relaxed, Relaxed).is_ok() {
            self.rules.alarm.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::OutlierConfig, *};
    use crate::code::Code;

    #[test]
    fn the_first_end_of_a_taken_probe_holds() {
        for (ends, state) in [
            (&[Ended::Answered(Code::OK), Ended::Broken][..], Probed::Passed),
            (&[Ended::Expired, Ended::Answered(Code::OK)], Probed::Failed),
            (&[], Probed::Dropped),
        ] {
            let probe = Probe::new(Arc::new(Rules::new(&OutlierConfig::default())));
            probe.observe(Ended::Broken);
            assert_eq!(probe.state(), Probed::Offered, "what nobody took has no end");
            probe.take();
            assert_eq!(probe.state(), Probed::Taken);
            for &ended in ends {
                probe.observe(ended);
            }
            probe.drop_call();
            assert_eq!(probe.state(), state);
        }
    }
}
