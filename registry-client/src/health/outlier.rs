//! The settings of outlier detection.
//!
//! Source: gRFC A50 (outlier detection), which took it from Envoy. The names
//! are A50's; the defaults are not all, see [`OutlierConfig`].

use std::{num::NonZeroU32, time::Duration};

use super::FAILURES;
use crate::code::Codes;

/// The rules for ejecting instances.
///
/// The defaults suit services of a few instances, which A50's do not: among
/// three instances its success rate ejects none (the worst of `n` is at most
/// √(n−1) standard deviations below the mean, 1.41 for three, and 1.9 are
/// required), and its threshold of 85 % failures misses an instance that fails
/// every other call. Stricter rules are safe because an instance returns
/// sooner, after a single probe, and because it is [compared](Self::compare)
/// with the others first. [`a50`](Self::a50) has A50's own defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutlierConfig {
    /// The interval between sweeps, which apply `success_rate` and
    /// `failure_percentage`; 5 s unless set. A run of failures and lost
    /// connections act at once.
    pub interval: Duration,
    /// The base time of an ejection, multiplied by the number of ejections; 5 s
    /// unless set. Up to a tenth is added at random, so that instances ejected
    /// together do not return together.
    pub base_ejection_time: Duration,
    /// The longest time of an ejection; 45 s unless set.
    pub max_ejection_time: Duration,
    /// The largest share of the set that may be ejected, in percent; 50 unless
    /// set. Of two or more instances, one may be in any case.
    pub max_ejection_percent: u32,
    /// Ejects after failures in a row; on unless set.
    pub consecutive: Option<Consecutive>,
    /// Ejects instances with a lower success rate than the others; on unless
    /// set, and in effect from five instances on.
    pub success_rate: Option<SuccessRate>,
    /// Ejects instances with a high share of failures; on unless set.
    pub failure_percentage: Option<FailurePercentage>,
    /// Ejects after so many lost connections, without an `interval` in between
    /// that had none; 3 unless set, `None` never. For an instance that was
    /// ejected recently, one is enough.
    pub lost_connections: Option<NonZeroU32>,
    /// The status codes that count as failures; [`FAILURES`] unless set. A
    /// broken stream and a deadline that passed on this side count too, a
    /// call that its caller cancelled does not.
    pub failures: Codes,
    /// True if an instance is ejected only when it is significantly worse than
    /// the others together, so that a fault of the whole service ejects none;
    /// on unless set. Significantly: its run of failures is less likely than
    /// one in a billion at the others' rate, or its share of failures is four
    /// standard errors above theirs.
    pub compare: bool,
}

/// Failures in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consecutive {
    /// The length of the run; 5 unless set, at most 64.
    pub failures: NonZeroU32,
    /// The share of ejections by this rule that is enforced, in percent; 100
    /// unless set.
    pub enforcement_percentage: u32,
}

/// A success rate below the mean of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuccessRate {
    /// The distance below the mean, in thousandths of a standard deviation;
    /// 1,900 unless set.
    pub stdev_factor: u32,
    /// The share of ejections by this rule that is enforced, in percent; 100
    /// unless set.
    pub enforcement_percentage: u32,
    /// The least number of instances with `request_volume`; 5 unless set.
    pub minimum_hosts: u32,
    /// The least number of calls that ended within the interval; 100 unless
    /// set.
    pub request_volume: u32,
}

/// A share of failures above a fixed one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailurePercentage {
    /// The share of failures above which an instance is ejected, in percent; 30
    /// unless set.
    pub threshold: u32,
    /// The share of ejections by this rule that is enforced, in percent; 100
    /// unless set.
    pub enforcement_percentage: u32,
    /// The least number of instances with `request_volume`; 2 unless set.
    pub minimum_hosts: u32,
    /// The least number of calls that ended within the interval; 20 unless set.
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
    /// The defaults of gRFC A50: the two statistical rules are off until they
    /// are set.
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
    /// The defaults of gRFC A50 for the members of
    /// `failure_percentage_ejection`.
    #[must_use]
    pub fn a50() -> Self {
        Self { threshold: 85, enforcement_percentage: 100, minimum_hosts: 5, request_volume: 50 }
    }
}
