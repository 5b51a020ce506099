//! When an instance is taken out because attempts on it fail.
//!
//! Source: gRFC A50 (outlier detection), which took it from Envoy. The names
//! are A50's; the defaults are not all, see [`OutlierConfig`].

use std::{num::NonZeroU32, time::Duration};

use super::FAILURES;
use crate::code::Codes;

/// When an instance is ejected, and for how long.
///
/// The defaults are made for services of a few instances, which A50's are not:
/// among three its success rate ejects nobody (the worst of `n` is at most
/// √(n−1) standard deviations below the mean, 1.41 for three, and 1.9 are
/// asked for), and its 85 % of failures miss an instance that fails every other
/// call. What pays for being stricter is that an instance is let back sooner
/// and by a single call, and that it is [compared](Self::compare) with the
/// others first. [`a50`](Self::a50) has A50's own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutlierConfig {
    /// How often success rates and failure percentages are looked at; 5 s
    /// unless set. A run of failures and lost connections act at once.
    pub interval: Duration,
    /// How long an instance is out, times how often it was ejected; 5 s unless
    /// set. Up to a tenth is added at random, so that instances ejected
    /// together do not return together.
    pub base_ejection_time: Duration,
    /// The longest that an instance is out at a time; 45 s unless set.
    pub max_ejection_time: Duration,
    /// How much of the set may be out, in percent; 50 unless set. One may be
    /// in any case, where there is another.
    pub max_ejection_percent: u32,
    /// Ejects after failures in a row; on unless set.
    pub consecutive: Option<Consecutive>,
    /// Ejects who succeeds less than the others; on unless set, and in effect
    /// from five instances on.
    pub success_rate: Option<SuccessRate>,
    /// Ejects who fails often; on unless set.
    pub failure_percentage: Option<FailurePercentage>,
    /// Ejects after so many connections that broke or fell silent, with no
    /// `interval` in between in which none did; 3 unless set, `None` never. An
    /// instance that was ejected not long ago needs one only.
    pub lost_connections: Option<NonZeroU32>,
    /// The status codes that count as failures; [`FAILURES`] unless set. A
    /// broken stream and a deadline that passed on this side count too, a
    /// call that its caller cancelled does not.
    pub failures: Codes,
    /// True if an instance is ejected only when it clearly does worse than the
    /// others together, so that a fault of the whole service ejects nobody; on
    /// unless set. Clearly: such a run of failures is less likely than one in a
    /// billion at the others' rate, or its share of failures lies four standard
    /// errors above theirs.
    pub compare: bool,
}

/// Failures in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consecutive {
    /// How many; 5 unless set. At most 64 are told apart.
    pub failures: NonZeroU32,
    /// How often the rule is followed, in percent; 100 unless set.
    pub enforcement_percentage: u32,
}

/// A success rate below the mean of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuccessRate {
    /// How many standard deviations below, in thousandths; 1,900 unless set.
    pub stdev_factor: u32,
    /// How often the rule is followed, in percent; 100 unless set.
    pub enforcement_percentage: u32,
    /// How many instances must have `request_volume`; 5 unless set.
    pub minimum_hosts: u32,
    /// How many calls an instance must have ended within the interval; 100
    /// unless set.
    pub request_volume: u32,
}

/// A share of failures above a fixed one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailurePercentage {
    /// Ejected is who fails more than this, in percent; 30 unless set.
    pub threshold: u32,
    /// How often the rule is followed, in percent; 100 unless set.
    pub enforcement_percentage: u32,
    /// How many instances must have `request_volume`; 2 unless set.
    pub minimum_hosts: u32,
    /// How many calls an instance must have ended within the interval; 20
    /// unless set.
    pub request_volume: u32,
}

impl Default for OutlierConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            base_ejection_time: Duration::from_secs(5),
            max_ejection_time: Duration::from_secs(45),
            max_ejection_percent: 50,
            consecutive: Some(Consecutive::default()),
            success_rate: Some(SuccessRate::default()),
            failure_percentage: Some(FailurePercentage::default()),
            lost_connections: NonZeroU32::new(3),
            failures: FAILURES,
            compare: true,
        }
    }
}

impl OutlierConfig {
    /// What gRFC A50 has where a service configuration says nothing: the two
    /// statistical rules are off until they are set.
    #[must_use]
    pub fn a50() -> Self {
        Self {
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_percent: 10,
            consecutive: None,
            success_rate: None,
            failure_percentage: None,
            lost_connections: None,
            failures: Codes::all_but_ok(),
            compare: false,
        }
    }
}

impl Default for Consecutive {
    fn default() -> Self {
        Self { failures: NonZeroU32::new(5).unwrap_or(NonZeroU32::MIN), enforcement_percentage: 100 }
    }
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self { stdev_factor: 1_900, enforcement_percentage: 100, minimum_hosts: 5, request_volume: 100 }
    }
}

impl Default for FailurePercentage {
    fn default() -> Self {
        Self { threshold: 30, enforcement_percentage: 100, minimum_hosts: 2, request_volume: 20 }
    }
}

impl FailurePercentage {
    /// What gRFC A50 has for the members of `failure_percentage_ejection`.
    #[must_use]
    pub fn a50() -> Self {
        Self { threshold: 85, enforcement_percentage: 100, minimum_hosts: 5, request_volume: 50 }
    }
}
