//! The decision whether an instance is in the ready set. Plain values without
//! I/O.
//!
//! Four sources decide: the registry's checks, the instance's own health
//! service (watch), the state of its connection, and the outcomes of attempts
//! (outlier detection). Where the first two flap, damping delays the return.
//! `verdict` is the one place that combines them.

use crate::code::{Code, Codes};

mod damping;
mod eject;
pub mod outlier;
mod probe;
mod record;
mod verdict;

pub(crate) use damping::{Damping, Hold};
pub(crate) use eject::{Detector, EjectionState, OutlierCandidate, Phase, Sweep};
pub(crate) use probe::{Probe, ProbeState};
pub(crate) use record::FailureRules;
pub(crate) use verdict::{DecidedBy, Preference, ServingState, Verdict, verdict};

pub use outlier::OutlierConfig;
pub use record::Record;

/// The status codes that count as failures of an instance by default: those
/// that a server returns for a fault of its own.
pub const FAILURES: Codes =
    Codes::of(&[Code::UNKNOWN, Code::DEADLINE_EXCEEDED, Code::INTERNAL, Code::UNAVAILABLE, Code::DATA_LOSS]);
