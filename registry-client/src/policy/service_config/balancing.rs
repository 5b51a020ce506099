//! `loadBalancingConfig` of gRPC's service config, and its older sibling
//! `loadBalancingPolicy`.
//!
//! Source: gRFC A24, A48 (`least_request`), A50 (outlier detection), A58
//! (`weighted_round_robin`).

use std::num::NonZeroU32;

use super::{
    json::Field,
    value::{boolean, duration, integer, percent, positive_duration, text},
};
use crate::{
    balance::Balancer,
    health::outlier::{Consecutive, FailurePercentage, OutlierConfig, SuccessRate},
    instance::ParseError,
};

/// The balancing policy and outlier detection of a list of policies.
#[derive(Debug, PartialEq)]
pub(super) struct BalancingConfig {
    pub(super) balancer: Balancer,
    pub(super) outlier: Option<OutlierConfig>,
}

const OUTLIER: &str = "outlier_detection_experimental";

/// Reads `loadBalancingConfig`: the first known policy of a list.
pub(super) fn config(field: Field) -> Result<BalancingConfig, ParseError> {
    let unknown = field.refused(format_args!("none of its policies is known; there are {}", known()));
    for policy in field.list()? {
        let (name, config) = policy.object()?.only()?;
        if matches!(&*name, OUTLIER | "outlier_detection") {
            let (outlier, balancer) = outlier(config)?;
            return Ok(BalancingConfig { balancer, outlier: Some(outlier) });
        }
        if let Some(balancer) = balancer(&name) {
            settings(balancer, config)?;
            return Ok(BalancingConfig { balancer, outlier: None });
        }
    }
    Err(unknown)
}

/// Reads `loadBalancingPolicy`: one name, in any case.
pub(super) fn policy(field: Field) -> Result<Balancer, ParseError> {
    let unknown = field.wrong(format_args!("is no policy that is known; there are {}", known()));
    balancer(&text(field)?.to_ascii_lowercase()).ok_or(unknown)
}

/// A policy by gRPC's name or ours.
fn balancer(name: &str) -> Option<Balancer> {
    match name {
        "weighted_round_robin" => Some(Balancer::Weighted),
        "least_request_experimental" => Some(Balancer::LeastRequest),
        name => name.parse().ok(),
    }
}

fn known() -> String {
    let ours = Balancer::ALL.map(Balancer::name).join(", ");
    format!("{ours}, weighted_round_robin, least_request_experimental, {OUTLIER}")
}

/// Rejects settings that a policy does not have.
fn settings(balancer: Balancer, field: Field) -> Result<(), ParseError> {
    let mut object = field.object()?;
    if balancer == Balancer::LeastRequest {
        object.read("choiceCount", |field| match integer(&field, 2, 2) {
            Ok(_) => Ok(()),
            Err(_) => Err(field.wrong("is not supported; two instances are drawn, so 2 is expected")),
        })?;
    }
    object.end()
}

fn outlier(field: Field) -> Result<(OutlierConfig, Balancer), ParseError> {
    let default = OutlierConfig::a50();
    let mut object = field.object()?;
    let mut settings = OutlierConfig {
        interval: object.read("interval", positive_duration)?.unwrap_or(default.interval),
        base_ejection_time: object.read("baseEjectionTime", duration)?.unwrap_or(default.base_ejection_time),
        max_ejection_time: object.read("maxEjectionTime", duration)?.unwrap_or(default.max_ejection_time),
        max_ejection_percent: object
            .read("maxEjectionPercent", percent)?
            .unwrap_or(default.max_ejection_percent),
        success_rate: object.read("successRateEjection", success_rate)?,
        failure_percentage: object.read("failurePercentageEjection", failure_percentage)?,
        ..default
    };
    object.read("consort", |field| consort_settings(field, &mut settings))?;
    let place = object.path_of("childPolicy");
    let child = object.need("childPolicy", "a list such as [{\"round_robin\": {}}]", config)?;
    object.end()?;
    if child.outlier.is_some() {
        return Err(ParseError(format!("{place}: is {OUTLIER} again; the policy that picks is expected")));
    }
    Ok((settings, child.balancer))
}

/// Reads our own settings of outlier detection, off here unless set, because
/// A50 has none of them.
fn consort_settings(field: Field, settings: &mut OutlierConfig) -> Result<(), ParseError> {
    let count = |field: Field| integer(&field, 1, u32::MAX).map(NonZeroU32::new);
    let mut object = field.object()?;
    let consecutive =
        object.read("consecutiveFailures", |field| integer(&field, 1, 64).map(NonZeroU32::new))?;
    settings.consecutive =
        consecutive.flatten().map(|failures| Consecutive { failures, ..Consecutive::default() });
    settings.lost_connections = object.read("lostConnections", count)?.flatten();
    settings.compare = object.read("compare", boolean)?.unwrap_or(settings.compare);
    object.end()
}

fn success_rate(field: Field) -> Result<SuccessRate, ParseError> {
    let default = SuccessRate::default();
    let mut object = field.object()?;
    let settings = SuccessRate {
        stdev_factor: object.read("stdevFactor", count)?.unwrap_or(default.stdev_factor),
        enforcement_percentage: object
            .read("enforcementPercentage", percent)?
            .unwrap_or(default.enforcement_percentage),
        minimum_hosts: object.read("minimumHosts", count)?.unwrap_or(default.minimum_hosts),
        request_volume: object.read("requestVolume", count)?.unwrap_or(default.request_volume),
    };
    object.end()?;
    Ok(settings)
}

fn failure_percentage(field: Field) -> Result<FailurePercentage, ParseError> {
    // Those of `FailurePercentage::default` are made for few instances.
    let default = FailurePercentage::a50();
    let mut object = field.object()?;
    let settings = FailurePercentage {
        threshold: object.read("threshold", percent)?.unwrap_or(default.threshold),
        enforcement_percentage: object
            .read("enforcementPercentage", percent)?
            .unwrap_or(default.enforcement_percentage),
        minimum_hosts: object.read("minimumHosts", count)?.unwrap_or(default.minimum_hosts),
        request_volume: object.read("requestVolume", count)?.unwrap_or(default.request_volume),
    };
    object.end()?;
    Ok(settings)
}

fn count(field: Field) -> Result<u32, ParseError> {
    integer(&field, 0, u32::MAX)
}
