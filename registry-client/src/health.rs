//! Why an instance is in or out of the ready set. Pure values and decisions;
//! knows nothing of how calls travel.
//!
//! Four have a say: the registry's checks, the instance's own health service
//! (watch), the state of its connection, and how attempts on it ended
//! (outlier detection). Where the first two change their mind again and again,
//! damping delays the return. `verdict` is the one place that weighs them.

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
pub(crate) use record::Rules;
pub(crate) use verdict::{DecidedBy, Preference, ServingState, Verdict, verdict};

pub use outlier::OutlierConfig;
pub use record::Record;

/// The codes that count against an instance unless it is said otherwise:
/// those that a server answers for a fault of its own.
pub const FAILURES: Codes =
    Codes::of(&[Code::UNKNOWN, Code::DEADLINE_EXCEEDED, Code::INTERNAL, Code::UNAVAILABLE, Code::DATA_LOSS]);
