//! The root of the service config: gRPC's settings, and ours under `consort`.

use super::{
    ServiceConfig, balancing,
    json::Field,
    method,
    value::{integer, number, positive, positive_duration, text},
};
use crate::{
    instance::ParseError,
    policy::{
        budget::{self, BudgetConfig},
        limit::LimitConfig,
        throttle::{MAX_WINDOW, ThrottleConfig},
    },
};

pub(super) fn parse(json: &str) -> Result<ServiceConfig, ParseError> {
    let mut config = ServiceConfig::default();
    let mut root = Field::parse(json)?.object()?;
    if let Some(methods) = root.take("methodConfig") {
        method::method_configs(methods, &mut config)?;
    }
    let tokens = root.read("retryThrottling", tokens)?;
    let balancing = root.read("loadBalancingConfig", balancing::config)?;
    let older_name = root.read("loadBalancingPolicy", balancing::policy)?;
    config.balancer = match (&balancing, older_name) {
        (Some(balancing), Some(older_name)) if balancing.balancer != older_name => {
            return Err(ParseError(format!(
                "loadBalancingPolicy: {older_name} contradicts loadBalancingConfig, which says {}; one of them is expected",
                balancing.balancer
            )));
        }
        (Some(balancing), _) => Some(balancing.balancer),
        (None, older_name) => older_name,
    };
    config.outlier = balancing.and_then(|balancing| balancing.outlier);
    config.health_service = root.read("healthCheckConfig", health)?;
    if let Some(consort_settings) = root.take("consort") {
        consort(consort_settings, &mut config, tokens.is_some())?;
    }
    root.end()?;
    config.budget = tokens.unwrap_or(config.budget);
    Ok(config)
}

fn tokens(field: Field) -> Result<BudgetConfig, ParseError> {
    let mut object = field.object()?;
    let expected = "an integer of 1 to 1000";
    let max_tokens = object.need("maxTokens", expected, |field| integer(&field, 1, 1_000))?;
    let token_ratio = object.need("tokenRatio", "a number above 0", |field| {
        let too_small = field.wrong("is nothing to three decimal places; 0.001 or more is expected");
        positive(field).and_then(|ratio| if ratio < 0.001 { Err(too_small) } else { Ok(ratio) })
    })?;
    object.end()?;
    Ok(BudgetConfig::Tokens { max_tokens, token_ratio })
}

/// The empty name, which stands for the server as a whole, is a name too.
fn health(field: Field) -> Result<String, ParseError> {
    let mut object = field.object()?;
    let name = object.need("serviceName", "a string", text)?;
    object.end()?;
    Ok(name)
}

fn consort(field: Field, config: &mut ServiceConfig, tokens: bool) -> Result<(), ParseError> {
    let mut object = field.object()?;
    if let Some(consort_settings) = object.take("budget") {
        if tokens {
            return Err(consort_settings.refused("excludes retryThrottling; only one of them is expected"));
        }
        config.budget = share(consort_settings)?;
    }
    if let Some(field) = object.take("throttle") {
        config.throttle = throttle(field)?;
    }
    if let Some(limits) = object.take("limits") {
        let mut limits = limits.object()?;
        config.service_limit = limits.read("service", limit)?;
        config.instance_limit = limits.read("instance", limit)?;
        limits.end()?;
    }
    object.end()
}

fn share(field: Field) -> Result<BudgetConfig, ParseError> {
    let mut object = field.object()?;
    let ratio = |field: Field| {
        let share = number(&field).filter(|ratio| (0.0..=10.0).contains(ratio));
        share.ok_or_else(|| field.wrong("does not do; a number of 0 to 10 is expected, such as 0.2"))
    };
    let config = BudgetConfig::Share {
        ratio: object.read("ratio", ratio)?.unwrap_or(budget::RATIO),
        min_per_second: object
            .read("minPerSecond", |n| integer(&n, 0, u32::MAX))?
            .unwrap_or(budget::MIN_PER_SECOND),
    };
    object.end()?;
    Ok(config)
}

fn throttle(field: Field) -> Result<Option<ThrottleConfig>, ParseError> {
    let default = ThrottleConfig::default();
    if field.value() == &serde_json::Value::Bool(false) {
        return Ok(None);
    }
    let mut object = field.object()?;
    let window = |field: Field| {
        let too_long = field.wrong("is too long; at most 10s is expected");
        positive_duration(field)
            .and_then(|window| if window > MAX_WINDOW { Err(too_long) } else { Ok(window) })
    };
    let k = |field: Field| {
        let k = number(&field).filter(|k| *k >= 1.0);
        k.ok_or_else(|| field.wrong("would refuse a willing service; a number of 1 or more is expected"))
    };
    let config = ThrottleConfig {
        k: object.read("k", k)?.unwrap_or(default.k),
        window: object.read("window", window)?.unwrap_or(default.window),
    };
    object.end()?;
    Ok(Some(config))
}

fn limit(field: Field) -> Result<LimitConfig, ParseError> {
    let mut object = field.object()?;
    let max = object.need("maxConcurrent", "an integer of 1 or more", |n| integer(&n, 1, u32::MAX))?;
    let default = LimitConfig::new(max);
    let config = LimitConfig {
        max,
        queue: object.read("maxWaiting", |n| integer(&n, 0, u32::MAX))?.unwrap_or(default.queue),
        wait: object.read("maxWait", super::value::duration)?.unwrap_or(default.wait),
    };
    object.end()?;
    Ok(config)
}
