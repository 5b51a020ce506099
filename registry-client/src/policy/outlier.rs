//! When an instance counts as an outlier, as gRPC's service config says it.

use std::time::Duration;

/// Settings of outlier detection; their names and defaults are gRFC A50's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutlierSettings {
    /// How often instances are judged; 10 s unless set.
    pub interval: Duration,
    /// How long the first ejection of an instance lasts; 30 s unless set. The
    /// n-th lasts n times as long.
    pub base_ejection_time: Duration,
    /// No ejection lasts longer; 300 s unless set.
    pub max_ejection_time: Duration,
    /// At most this many of 100 instances are ejected at a time; 10 unless set.
    pub max_ejection_percent: u32,
    /// Judges by the share of successes compared with the others'; off unless
    /// set.
    pub success_rate: Option<SuccessRate>,
    /// Judges by the share of failures alone; off unless set.
    pub failure_percentage: Option<FailurePercentage>,
}

impl Default for OutlierSettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_percent: 10,
            success_rate: None,
            failure_percentage: None,
        }
    }
}

/// Ejects an instance whose success rate is far below the mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SuccessRate {
    /// How many thousandths of a standard deviation is far; 1,900 unless set.
    pub stdev_factor: u32,
    /// In how many of 100 cases it is ejected indeed; 100 unless set.
    pub enforcement_percentage: u32,
    /// With fewer instances of enough volume nothing is judged; 5 unless set.
    pub minimum_hosts: u32,
    /// With fewer calls in an interval an instance is not judged; 100 unless
    /// set.
    pub request_volume: u32,
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self { stdev_factor: 1_900, enforcement_percentage: 100, minimum_hosts: 5, request_volume: 100 }
    }
}

/// Ejects an instance that fails too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailurePercentage {
    /// More failures of 100 calls are too many; 85 unless set.
    pub threshold: u32,
    /// In how many of 100 cases it is ejected indeed; 100 unless set.
    pub enforcement_percentage: u32,
    /// With fewer instances of enough volume nothing is judged; 5 unless set.
    pub minimum_hosts: u32,
    /// With fewer calls in an interval an instance is not judged; 50 unless
    /// set.
    pub request_volume: u32,
}

impl Default for FailurePercentage {
    fn default() -> Self {
        Self { threshold: 85, enforcement_percentage: 100, minimum_hosts: 5, request_volume: 50 }
    }
}
