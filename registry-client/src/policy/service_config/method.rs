//! `methodConfig` of gRPC's service config.
//!
//! Source: `grpc.service_config.ServiceConfig` (`service_config.proto`),
//! gRFC A6, A44.

use std::{collections::HashMap, time::Duration};

use super::{
    MethodConfig, ServiceConfig,
    json::{Field, Object},
    value::{boolean, bytes, codes, duration, integer, nonempty_codes, positive, positive_duration, text},
};
use crate::{
    instance::ParseError,
    policy::{
        hedge::{HedgeDelay, HedgingPolicy},
        retry::{MAX_ATTEMPTS, RetryPolicy},
    },
};

/// Reads the whole list into `config`.
pub(super) fn method_configs(list: Field, config: &mut ServiceConfig) -> Result<(), ParseError> {
    // The path of each name, to report duplicates.
    let mut places: HashMap<String, String> = HashMap::new();
    for entry in list.list()? {
        let mut object = entry.object()?;
        let example = r#"a list such as [{"service": "shop.cart.v1.CartService", "method": "GetCart"}]"#;
        let names = object.need("name", example, |names| {
            let empty = names.refused(format_args!("names nothing; {example} is expected"));
            names.list().and_then(|names| if names.is_empty() { Err(empty) } else { Ok(names) })
        })?;
        let settings = method_config(&mut object)?;
        object.end()?;
        for place in names {
            let at = place.path().to_owned();
            let name = Name::read(place)?;
            let shown = name.to_string();
            if let Some(first) = places.get(&shown) {
                return Err(ParseError(format!("{at}: {shown} is named already, by {first}")));
            }
            places.insert(shown, at);
            name.set(config, settings.clone());
        }
    }
    Ok(())
}

/// The scope of an entry.
enum Name {
    All,
    Service(String),
    Method(String, String),
}

impl Name {
    fn read(field: Field) -> Result<Self, ParseError> {
        let mut object = field.object()?;
        let service = object.read("service", text)?.filter(|name| !name.is_empty());
        let method = object.read("method", text)?.filter(|name| !name.is_empty());
        let missing = object.path_of("service");
        object.end()?;
        match (service, method) {
            (None, None) => Ok(Self::All),
            (Some(service), None) => Ok(Self::Service(service)),
            (Some(service), Some(method)) => Ok(Self::Method(service, method)),
            (None, Some(method)) => Err(ParseError(format!(
                "{missing}: is missing; the service of `{method}` is expected, such as \"shop.cart.v1.CartService\""
            ))),
        }
    }

    fn set(self, config: &mut ServiceConfig, settings: MethodConfig) {
        match self {
            Self::All => config.all = settings,
            Self::Service(service) => config.set_service(&service, settings),
            Self::Method(service, method) => config.set_method(&service, &method, settings),
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("the default"),
            Self::Service(service) => f.write_str(service),
            Self::Method(service, method) => write!(f, "{service}/{method}"),
        }
    }
}

fn method_config(object: &mut Object) -> Result<MethodConfig, ParseError> {
    let mut config = MethodConfig {
        wait_for_ready: object.read("waitForReady", boolean)?,
        timeout: object.read("timeout", positive_duration)?,
        max_request_bytes: object.read("maxRequestMessageBytes", bytes)?,
        max_response_bytes: object.read("maxResponseMessageBytes", bytes)?,
        retry: object.read("retryPolicy", retry)?,
        hedging: object.read("hedgingPolicy", hedging)?,
    };
    let both = object.path_of("hedgingPolicy");
    if config.retry.is_some() && config.hedging.is_some() {
        return Err(ParseError(format!("{both}: excludes retryPolicy; only one of them is expected")));
    }
    let place = object.path_of("consort.retry");
    if object.read("consort", consort_settings)? == Some(false) {
        if config.retry.is_some() || config.hedging.is_some() {
            return Err(ParseError(format!(
                "{place}: false excludes retryPolicy and hedgingPolicy; only one of them is expected"
            )));
        }
        config.retry = Some(RetryPolicy::off());
    }
    Ok(config)
}

/// Reads our own settings of a method: whether it is retried.
fn consort_settings(field: Field) -> Result<bool, ParseError> {
    let mut object = field.object()?;
    let retry = object.read("retry", boolean)?.unwrap_or(true);
    object.end()?;
    Ok(retry)
}

fn retry(field: Field) -> Result<RetryPolicy, ParseError> {
    let mut object = field.object()?;
    let time = "a duration such as \"0.1s\"";
    let policy = RetryPolicy {
        max_attempts: object.need("maxAttempts", "an integer of 2 or more", |n| attempts(&n, "retry"))?,
        initial_backoff: object.need("initialBackoff", time, positive_duration)?,
        max_backoff: object.need("maxBackoff", time, positive_duration)?,
        multiplier: object.need("backoffMultiplier", "a number above 0", positive)?,
        codes: object.need("retryableStatusCodes", "a list such as [\"UNAVAILABLE\"]", nonempty_codes)?,
        attempt_timeout: object.read("perAttemptRecvTimeout", positive_duration)?,
        applies: true,
    };
    let place = object.path_of("initialBackoff");
    object.end()?;
    if policy.initial_backoff > policy.max_backoff {
        let RetryPolicy { initial_backoff, max_backoff, .. } = policy;
        return Err(ParseError(format!(
            "{place}: {initial_backoff:?} is above maxBackoff, {max_backoff:?}; at most that is expected"
        )));
    }
    Ok(policy)
}

fn hedging(field: Field) -> Result<HedgingPolicy, ParseError> {
    let mut object = field.object()?;
    let max_attempts = object.need("maxAttempts", "an integer of 2 or more", |n| attempts(&n, "hedging"))?;
    let fixed = object.read("hedgingDelay", duration)?;
    let non_fatal = object.read("nonFatalStatusCodes", codes)?.unwrap_or_default();
    let place = object.path_of("consort.percentile");
    let observed = object.read("consort", percentile)?;
    object.end()?;
    let delay = match (fixed, observed) {
        (Some(_), Some(_)) => {
            return Err(ParseError(format!("{place}: excludes hedgingDelay; only one of them is expected")));
        }
        (_, Some(percentile)) => HedgeDelay::Percentile(percentile),
        (fixed, None) => HedgeDelay::Fixed(fixed.unwrap_or(Duration::ZERO)),
    };
    Ok(HedgingPolicy { max_attempts, delay, non_fatal })
}

/// Reads our own setting of a hedge: the percentile of observed latencies.
fn percentile(field: Field) -> Result<u8, ParseError> {
    let mut object = field.object()?;
    let percentile = object.need("percentile", "an integer of 1 to 99", |field| integer(&field, 1, 99))?;
    object.end()?;
    Ok(u8::try_from(percentile).unwrap_or(99))
}

/// Reads a number of attempts; above 5 counts as 5 (gRFC A6).
fn attempts(field: &Field, what: &str) -> Result<u32, ParseError> {
    let attempts = integer(field, 2, u32::MAX);
    attempts
        .map(|attempts| attempts.min(MAX_ATTEMPTS))
        .map_err(|_| field.wrong(format_args!("is no {what}; an integer of 2 or more is expected")))
}
