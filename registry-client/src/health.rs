//! Why an instance is in or out of the ready set. Pure values and decisions;
//! knows nothing of how calls travel.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::code::{Code, Codes};

/// How an attempt ended, as far as its instance's health is concerned. Of an
/// attempt that its caller gave up nothing is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// The instance answered with this code.
    Answered(Code),
    /// The stream or its connection broke.
    Broken,
    /// The call's time ran out on this attempt.
    Expired,
}

/// What attempts have told of one instance. Written at the end of each, read
/// by whoever judges; kept across registry updates.
#[derive(Debug, Default)]
pub struct Record {
    successes: AtomicU32,
    failures: AtomicU32,
    consecutive_failures: AtomicU32,
}

/// The codes that count against an instance unless it is said otherwise:
/// those that a server answers for a fault of its own.
pub const FAILURES: Codes =
    Codes::of(&[Code::UNKNOWN, Code::DEADLINE_EXCEEDED, Code::INTERNAL, Code::UNAVAILABLE, Code::DATA_LOSS]);

impl Record {
    /// Takes note of an attempt's end; `failures` are the codes that count
    /// against the instance.
    pub fn observe(&self, ended: Ended, failures: Codes) {
        if matches!(ended, Ended::Answered(code) if !failures.contains(code)) {
            self.successes.fetch_add(1, Relaxed);
            // Most of the time it is 0 already, and a load costs other cores nothing.
            if self.consecutive_failures.load(Relaxed) != 0 {
                self.consecutive_failures.store(0, Relaxed);
            }
        } else {
            self.failures.fetch_add(1, Relaxed);
            self.consecutive_failures.fetch_add(1, Relaxed);
        }
    }
}
