//! gRPC's service config: the operator's settings for calls.
//!
//! Source: gRPC's "Service Config in gRPC" and `service_config.proto`; gRFC A6
//! (retries, hedging, throttling), A24 (choice of the balancing policy), A50
//! (outlier detection).

use std::{collections::HashMap, fs::File, io::Read as _, str::FromStr, time::Duration};

use super::{
    budget::BudgetConfig,
    hedge::{HedgeDelay, HedgingPolicy},
    limit::LimitConfig,
    retry::RetryPolicy,
    throttle::{self, ThrottleConfig},
};
use crate::{Error, balance::Balancer, health::OutlierConfig, instance::ParseError};

mod balancing;
mod json;
mod method;
mod root;
mod value;

/// The settings of a channel's calls, by method and for all together.
///
/// Of the entries for a method, for its service and for all, the most specific
/// one holds as a whole: settings of several entries are not merged.
///
/// Made in code, or read from gRPC's JSON by [`parse`](Self::parse):
///
/// ```
/// use registry_client::policy::{MethodConfig, ServiceConfig};
/// use std::time::Duration;
///
/// let mut reads = MethodConfig::default();
/// reads.timeout = Some(Duration::from_millis(500));
/// let config = ServiceConfig::default().for_method("shop.cart.v1.CartService", "GetCart", reads);
///
/// let same = r#"{"methodConfig": [{
///     "name": [{"service": "shop.cart.v1.CartService", "method": "GetCart"}],
///     "timeout": "0.5s"
/// }]}"#;
/// assert_eq!(same.parse(), Ok(config));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ServiceConfig {
    /// By path, `/package.Service/Method`.
    methods: HashMap<Box<str>, MethodConfig>,
    /// By name, `package.Service`.
    services: HashMap<Box<str>, MethodConfig>,
    all: MethodConfig,
    /// The retry budget.
    pub budget: BudgetConfig,
    /// Client-side throttling; `None` is off.
    pub throttle: Option<ThrottleConfig>,
    /// The limit on concurrent calls of the channel; none unless set.
    pub service_limit: Option<LimitConfig>,
    /// The limit on concurrent calls of the channel to one instance; none
    /// unless set.
    pub instance_limit: Option<LimitConfig>,
    /// The balancing policy. Overrides
    /// [`ChannelConfig::balancer`](crate::ChannelConfig::balancer).
    pub balancer: Option<Balancer>,
    /// Outlier detection. Overrides
    /// [`ChannelConfig::outlier`](crate::ChannelConfig::outlier).
    pub outlier: Option<OutlierConfig>,
    /// The service name of health checks (`grpc.health.v1`); the empty name is
    /// the server as a whole. Overrides
    /// [`ChannelConfig::health_service`](crate::ChannelConfig::health_service).
    pub health_service: Option<String>,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self {
            methods: HashMap::new(),
            services: HashMap::new(),
            all: MethodConfig::default(),
            budget: BudgetConfig::default(),
            throttle: Some(ThrottleConfig::default()),
            service_limit: None,
            instance_limit: None,
            balancer: None,
            outlier: None,
            health_service: None,
        }
    }
}

/// The operator's settings for one method, for all methods of a service, or for
/// all.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct MethodConfig {
    /// The longest time of a call, even if its caller would wait longer.
    pub timeout: Option<Duration>,
    /// True if a call waits while no instance is ready, false if it fails at
    /// once.
    pub wait_for_ready: Option<bool>,
    /// The most bytes of one request message.
    pub max_request_bytes: Option<usize>,
    /// The most bytes of one message of the response.
    pub max_response_bytes: Option<usize>,
    /// The retry policy. For a service or for all it holds for idempotent
    /// methods only; for one method it declares that the method is safe to
    /// retry.
    pub retry: Option<RetryPolicy>,
    /// The hedging policy; for the same methods as `retry`, which it excludes.
    pub hedging: Option<HedgingPolicy>,
}

/// The most bytes of a file that holds a service config.
const MAX_FILE_BYTES: u64 = 1 << 20;

impl ServiceConfig {
    /// Reads gRPC's service-config JSON.
    ///
    /// The known settings of gRPC are `methodConfig`, `retryThrottling`,
    /// `loadBalancingConfig`, `loadBalancingPolicy` and `healthCheckConfig`.
    /// Our own settings are under `consort`: at the top `budget` (`ratio`,
    /// `minPerSecond`), `throttle` (`k`, `window`; false switches it off) and
    /// `limits` (`service` and `instance`, each with `maxConcurrent`,
    /// `maxWaiting`, `maxWait`); in an entry of `methodConfig` `retry`, which
    /// false switches off; in a `hedgingPolicy` `percentile`, in place of
    /// `hedgingDelay`; in `outlier_detection_experimental`
    /// `consecutiveFailures`, `lostConnections` and `compare`.
    ///
    /// # Errors
    /// When the text is no JSON, or a setting is unknown, out of range or
    /// contradicts another; the error names the path of the field, the value
    /// and what is expected.
    pub fn parse(json: &str) -> Result<Self, ParseError> {
        root::parse(json)
    }

    /// Reads JSON, or the file of this name if the text does not begin with
    /// `{`. Blocks; for the start of a process.
    ///
    /// # Errors
    /// When the file does not exist or is above 1 MiB, and those of
    /// [`parse`](Self::parse).
    pub fn from_file_or_json(text: &str) -> Result<Self, ParseError> {
        if text.trim_start().starts_with('{') {
            return Self::parse(text);
        }
        let mut json = String::new();
        let read = File::open(text).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut json));
        match read {
            Ok(_) if json.len() as u64 > MAX_FILE_BYTES => {
                Err(ParseError(format!("`{text}` is above 1 MiB, the most that is read")))
            }
            Ok(_) => Self::parse(&json).map_err(|why| ParseError(format!("`{text}`: {why}"))),
            Err(why) => Err(ParseError(format!(
                "`{text}` cannot be read ({why}); JSON that begins with {{, or the name of a file, is expected"
            ))),
        }
    }

    /// Sets the config of one method: `service` is `shop.cart.v1.CartService`,
    /// `method` is `GetCart`. The last call counts.
    #[must_use]
    pub fn for_method(mut self, service: &str, method: &str, config: MethodConfig) -> Self {
        self.set_method(service, method, config);
        self
    }

    /// Sets the config of the other methods of a service.
    #[must_use]
    pub fn for_service(mut self, service: &str, config: MethodConfig) -> Self {
        self.set_service(service, config);
        self
    }

    /// Sets the config of the methods of all other services.
    #[must_use]
    pub fn for_all(mut self, config: MethodConfig) -> Self {
        self.all = config;
        self
    }

    fn set_method(&mut self, service: &str, method: &str, config: MethodConfig) {
        self.methods.insert(format!("/{service}/{method}").into(), config);
    }

    fn set_service(&mut self, service: &str, config: MethodConfig) {
        self.services.insert(service.into(), config);
    }

    /// The config of the method at `path`, and whether it is for this method
    /// alone.
    pub(super) fn of(&self, path: &str) -> (&MethodConfig, bool) {
        let of_service = || self.services.get(service_of(path)?);
        match self.methods.get(path) {
            Some(config) => (config, true),
            None => (of_service().unwrap_or(&self.all), false),
        }
    }

    /// The paths of the methods with a config of their own.
    pub(super) fn methods(&self) -> impl Iterator<Item = &str> {
        self.methods.keys().map(|path| &**path)
    }

    /// The services with a config of their own.
    pub(super) fn services(&self) -> impl Iterator<Item = (&str, &MethodConfig)> {
        self.services.iter().map(|(name, config)| (&**name, config))
    }

    /// Rejects settings that are out of range, which settings made in code can
    /// be.
    pub(super) fn check(&self) -> Result<(), Error> {
        let named = self.methods.iter().chain(&self.services).map(|(name, config)| (&**name, config));
        for (name, config) in named.chain([("all methods", &self.all)]) {
            config.check().map_err(|why| Error::Config(format!("policy of {name}: {why}")))?;
        }
        self.check_numbers().map_err(Error::Config)
    }

    fn check_numbers(&self) -> Result<(), String> {
        let (setting, number) = match self.budget {
            BudgetConfig::Share { ratio, .. } => ("ratio", ratio),
            BudgetConfig::Tokens { token_ratio, .. } => ("token_ratio", token_ratio),
        };
        if !(number.is_finite() && number >= 0.0) {
            return Err(format!("budget: {setting}: {number} is not a number of 0 or more"));
        }
        if let Some(ThrottleConfig { k, window }) = self.throttle {
            if !(k.is_finite() && k >= 1.0) {
                return Err(format!("throttle: k: {k} is not a number of 1 or more"));
            }
            if window.is_zero() || window > throttle::MAX_WINDOW {
                return Err(format!("throttle: window: {window:?} is not above 0 and no more than 10 s"));
            }
        }
        let limits = [("service_limit", self.service_limit), ("instance_limit", self.instance_limit)];
        let none = limits.iter().find(|(_, limit)| limit.is_some_and(|limit| limit.max == 0));
        none.map_or(Ok(()), |(name, _)| Err(format!("{name}: max: 0 would let no call begin")))
    }
}

impl FromStr for ServiceConfig {
    type Err = ParseError;

    fn from_str(json: &str) -> Result<Self, ParseError> {
        Self::parse(json)
    }
}

impl MethodConfig {
    fn check(&self) -> Result<(), String> {
        if self.retry.is_some() && self.hedging.is_some() {
            return Err("retry and hedging exclude each other; set one".to_owned());
        }
        if let Some(retry) = &self.retry {
            if retry.max_attempts == 0 {
                return Err("retry: max_attempts: 0 is no call at all; 1 or more is expected".to_owned());
            }
            if !(retry.multiplier.is_finite() && retry.multiplier > 0.0) {
                let multiplier = retry.multiplier;
                return Err(format!("retry: multiplier: {multiplier} is not a number above 0"));
            }
        }
        match self.hedging.map(|hedging| (hedging.max_attempts, hedging.delay)) {
            Some((0 | 1, _)) => Err("hedging: max_attempts: 2 or more is expected".to_owned()),
            Some((_, HedgeDelay::Percentile(percentile @ (0 | 100..)))) => {
                Err(format!("hedging: delay: the percentile {percentile} is not 1 to 99"))
            }
            _ => Ok(()),
        }
    }
}

/// `package.Service` of `/package.Service/Method`.
pub(super) fn service_of(path: &str) -> Option<&str> {
    path.strip_prefix('/')?.rsplit_once('/').map(|(service, _)| service)
}

#[cfg(test)]
mod tests;
