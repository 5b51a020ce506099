//! What an operator wants of calls: gRPC's service config.

use std::{collections::HashMap, time::Duration};

use super::{
    budget::BudgetConfig,
    hedge::{HedgeDelay, HedgingPolicy},
    retry::RetryPolicy,
};
use crate::Error;

/// What holds for the calls of a channel, by method.
///
/// Of the entries for a method, for its service and for all, the most specific
/// holds, whole: settings are not put together from several.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ServiceConfig {
    /// By path, `/package.Service/Method`.
    methods: HashMap<Box<str>, MethodConfig>,
    /// By name, `package.Service`.
    services: HashMap<Box<str>, MethodConfig>,
    all: MethodConfig,
    /// What bounds retries and hedges together.
    pub budget: BudgetConfig,
}

/// What an operator wants of one method, of all methods of a service, or of
/// all. What is unset is as if nothing had been said.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct MethodConfig {
    /// The longest a call may take, however long its caller would wait.
    pub timeout: Option<Duration>,
    /// Whether a call waits while no instance is ready, or fails at once.
    pub wait_for_ready: Option<bool>,
    /// The most bytes of one request message.
    pub max_request_bytes: Option<usize>,
    /// The most bytes of one message of the answer.
    pub max_response_bytes: Option<usize>,
    /// When another attempt follows a failed one. For a service or for all it
    /// holds for idempotent methods only; for one method it is the word that
    /// it may be sent twice.
    pub retry: Option<RetryPolicy>,
    /// When further attempts begin before one has failed; for which methods,
    /// as with `retry`. Excludes it.
    pub hedging: Option<HedgingPolicy>,
}

impl ServiceConfig {
    /// Sets what holds for one method: `service` is `shop.cart.v1.CartService`,
    /// `method` is `GetCart`. The last word counts.
    #[must_use]
    pub fn for_method(mut self, service: &str, method: &str, config: MethodConfig) -> Self {
        self.methods.insert(format!("/{service}/{method}").into(), config);
        self
    }

    /// Sets what holds for the other methods of a service.
    #[must_use]
    pub fn for_service(mut self, service: &str, config: MethodConfig) -> Self {
        self.services.insert(service.into(), config);
        self
    }

    /// Sets what holds for the methods of all other services.
    #[must_use]
    pub fn for_all(mut self, config: MethodConfig) -> Self {
        self.all = config;
        self
    }

    /// What is configured for the method at `path`, and whether for it alone.
    pub(super) fn of(&self, path: &str) -> (&MethodConfig, bool) {
        let of_service = || self.services.get(service_of(path)?);
        match self.methods.get(path) {
            Some(config) => (config, true),
            None => (of_service().unwrap_or(&self.all), false),
        }
    }

    /// The paths of the methods that are named.
    pub(super) fn methods(&self) -> impl Iterator<Item = &str> {
        self.methods.keys().map(|path| &**path)
    }

    /// The services that are named.
    pub(super) fn services(&self) -> impl Iterator<Item = (&str, &MethodConfig)> {
        self.services.iter().map(|(name, config)| (&**name, config))
    }

    /// Refuses what is out of range; settings made in code can be.
    pub(super) fn check(&self) -> Result<(), Error> {
        let named = self.methods.iter().chain(&self.services).map(|(name, config)| (&**name, config));
        for (name, config) in named.chain([("all methods", &self.all)]) {
            config.check().map_err(|why| Error::Config(format!("policy of {name}: {why}")))?;
        }
        let (setting, number) = match self.budget {
            BudgetConfig::Share { ratio, .. } => ("ratio", ratio),
            BudgetConfig::Tokens { token_ratio, .. } => ("token_ratio", token_ratio),
        };
        if number.is_finite() && number >= 0.0 {
            Ok(())
        } else {
            Err(Error::Config(format!("budget: {setting}: {number} is not a number of 0 or more")))
        }
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
