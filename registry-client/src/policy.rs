//! The policy of each method: timeouts, retries, limits on messages. Plain
//! values without I/O.
//!
//! A [`MethodPolicy`] has two sources: [`Methods`], read from descriptor sets,
//! know which methods are safe to retry; a [`ServiceConfig`] has the settings
//! of the operator.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::Error;

pub mod budget;
pub mod hedge;
pub mod incoming;
pub mod limit;
mod methods;
pub mod retry;
pub mod service_config;
pub mod throttle;
pub mod timeout;
mod usual;
mod window;

use hedge::{HedgeDelay, HedgingPolicy, Latencies};
pub use methods::{Method, Methods};
use retry::RetryPolicy;
pub use service_config::{MethodConfig, ServiceConfig};
use usual::UsualLatency;

/// The policy of one method.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct MethodPolicy {
    /// True if the method is marked as safe to retry in its descriptor.
    pub idempotent: bool,
    /// True if the method has a server stream.
    pub server_streaming: bool,
    /// True if the response is a single message, by the descriptor.
    pub unary_response: bool,
    /// The longest time of a call; the caller's `grpc-timeout` holds if it is
    /// shorter.
    pub timeout: Option<Duration>,
    /// True if a call waits while no instance is ready; `None` follows
    /// [`ChannelConfig::fail_fast`](crate::ChannelConfig::fail_fast) says.
    pub wait_for_ready: Option<bool>,
    /// The most bytes of one request message.
    pub max_request_bytes: Option<usize>,
    /// The most bytes of one message of the response.
    pub max_response_bytes: Option<usize>,
    /// The retries of failed attempts. With `hedging`, they follow at once and
    /// for its non-fatal codes.
    pub retry: RetryPolicy,
    /// The hedging policy; only where the method is safe to retry.
    pub hedging: Option<HedgingPolicy>,
    /// The latencies for the percentile of `hedging`.
    latencies: Option<Latencies>,
    /// The usual latency of successful attempts.
    usual: UsualLatency,
    /// True if any instance has answered with another status than
    /// UNIMPLEMENTED.
    was_implemented: AtomicBool,
}

impl MethodPolicy {
    /// The policy of `method`. `exact`: the configuration names this method
    /// alone, by which the operator declares it safe to retry.
    fn new(method: Method, config: &MethodConfig, exact: bool) -> Self {
        let may_repeat = method.idempotent || exact;
        let hedging = config.hedging.filter(|_| may_repeat);
        let retry = match hedging {
            Some(hedging) => RetryPolicy {
                max_attempts: hedging.max_attempts,
                initial_backoff: Duration::ZERO,
                codes: hedging.non_fatal,
                ..RetryPolicy::default()
            },
            None => {
                let retry = config.retry.unwrap_or_default();
                // A default declares nothing.
                let may_repeat = method.idempotent || exact && config.retry.is_some();
                RetryPolicy { applies: retry.applies && may_repeat, ..retry }
            }
        };
        let percentile = hedging.and_then(|hedging| match hedging.delay {
            HedgeDelay::Fixed(_) => None,
            HedgeDelay::Percentile(percentile) => Some(percentile),
        });
        Self {
            idempotent: method.idempotent,
            server_streaming: method.server_streaming,
            unary_response: method.unary_response,
            timeout: config.timeout,
            wait_for_ready: config.wait_for_ready,
            max_request_bytes: config.max_request_bytes,
            max_response_bytes: config.max_response_bytes,
            retry,
            hedging,
            latencies: percentile.map(Latencies::new),
            usual: UsualLatency::default(),
            was_implemented: AtomicBool::new(false),
        }
    }

    /// Returns whether a request that may have been processed may be retried,
    /// by the descriptor or by the operator.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.idempotent || self.retry.applies
    }

    /// The timeout of one attempt of a call that has `limit`; `None` when only
    /// the deadline bounds it. A hedged method abandons an attempt after half
    /// of its time unless it is configured otherwise.
    pub(crate) fn attempt_timeout(&self, limit: Duration) -> Option<Duration> {
        let half = || self.hedging.is_some().then_some(limit / 2);
        self.retry.attempt_timeout.or_else(half).filter(|timeout| self.is_repeatable() && *timeout < limit)
    }

    /// The usual latency of successful attempts.
    pub(crate) fn usual(&self) -> &UsualLatency {
        &self.usual
    }

    /// Returns whether any instance has answered with another status than
    /// UNIMPLEMENTED.
    pub(crate) fn is_implemented(&self) -> bool {
        self.was_implemented.load(Relaxed)
    }

    /// Records that an instance has answered with another status than
    /// UNIMPLEMENTED.
    pub(crate) fn set_implemented(&self) {
        // A load does not take the cache line from other cores, a store does.
        if !self.is_implemented() {
            self.was_implemented.store(true, Relaxed);
        }
    }

    /// The delay between hedged attempts; `None` without hedging, and before a
    /// percentile is known.
    #[must_use]
    pub fn hedge_delay(&self) -> Option<Duration> {
        match self.hedging?.delay {
            HedgeDelay::Fixed(delay) => Some(delay),
            HedgeDelay::Percentile(_) => self.latencies.as_ref()?.delay(),
        }
    }

    /// Returns whether [`observe`](Self::observe) records anything.
    pub(crate) fn is_timed(&self) -> bool {
        self.latencies.is_some()
    }

    /// Records the latency of an attempt, or its age when it was cancelled
    /// because another was faster. Costs nothing without hedging by percentile.
    pub fn observe(&self, took: Duration) {
        if let Some(latencies) = &self.latencies {
            latencies.record(took);
        }
    }
}

/// A map whose keys come from descriptors and configuration, never from a peer,
/// so that a fast hash is safe.
type ByName = HashMap<Box<str>, Arc<MethodPolicy>, foldhash::fast::RandomState>;

/// The policies of all methods of a channel, computed once.
#[derive(Debug)]
pub struct Policies {
    by_path: ByName,
    /// The policies of methods without a descriptor, by service.
    by_service: ByName,
    others: Arc<MethodPolicy>,
}

impl Policies {
    /// The policies by `config` for the methods of descriptors and all others.
    ///
    /// # Errors
    /// When a setting is out of range or contradicts another.
    pub fn new(methods: &Methods, config: &ServiceConfig) -> Result<Self, Error> {
        config.check()?;
        let known = methods.iter().map(|(path, method)| (path.into(), method));
        let named = config.methods().map(|name| (name.into(), methods.get(name)));
        let by_path = known.chain(named).map(|(path, method): (Box<str>, Method)| {
            let (config, exact) = config.of(&path);
            (path, Arc::new(MethodPolicy::new(method, config, exact)))
        });
        let unknown = |config| Arc::new(MethodPolicy::new(Method::default(), config, false));
        Ok(Self {
            by_path: by_path.collect(),
            by_service: config.services().map(|(name, config)| (name.into(), unknown(config))).collect(),
            others: unknown(config.of("").0),
        })
    }

    /// The policy of the method at `path`, such as
    /// `/shop.cart.v1.CartService/GetCart`. One look-up for a known method.
    #[must_use]
    #[inline]
    pub fn get(&self, path: &str) -> &Arc<MethodPolicy> {
        let of_service = || self.by_service.get(service_config::service_of(path)?);
        self.by_path.get(path).or_else(of_service).unwrap_or(&self.others)
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::code::{Code, Codes};

    /// `p.S` has `Read`, which may be sent twice, and `Add`, which may not.
    fn methods() -> Methods {
        let read = prost_types::MethodOptions { idempotency_level: Some(1), ..Default::default() };
        let method = |name: &str, options| prost_types::MethodDescriptorProto {
            name: Some(name.into()),
            options,
            ..Default::default()
        };
        let service = prost_types::ServiceDescriptorProto {
            name: Some("S".into()),
            method: vec![method("Read", Some(read)), method("Add", None)],
            ..Default::default()
        };
        let file = prost_types::FileDescriptorProto {
            package: Some("p".into()),
            service: vec![service],
            ..Default::default()
        };
        let mut methods = Methods::default();
        methods.describe(&prost_types::FileDescriptorSet { file: vec![file] }.encode_to_vec()).unwrap();
        methods
    }

    fn policies(config: ServiceConfig) -> Policies {
        Policies::new(&methods(), &config).unwrap()
    }

    fn timeout(secs: u64) -> MethodConfig {
        MethodConfig { timeout: Some(Duration::from_secs(secs)), ..MethodConfig::default() }
    }

    #[test]
    fn without_configuration_only_idempotent_methods_are_retried() {
        let policies = policies(ServiceConfig::default());
        assert!(policies.get("/p.S/Read").idempotent && policies.get("/p.S/Read").retry.applies);
        assert!(!policies.get("/p.S/Add").idempotent && !policies.get("/p.S/Add").retry.applies);
        assert!(!policies.get("/p.S/Unknown").retry.applies);
        assert_eq!(policies.get("/p.S/Read").retry, RetryPolicy::default());
    }

    #[test]
    fn the_method_wins_over_its_service_and_that_over_the_default() {
        let config = ServiceConfig::default()
            .for_all(timeout(1))
            .for_service("p.S", timeout(2))
            .for_method("p.S", "Read", timeout(3))
            .for_method("q.T", "Unheard", timeout(4));
        let policies = policies(config);
        let timeout = |path: &str| policies.get(path).timeout.map(|t| t.as_secs());
        assert_eq!(timeout("/p.S/Read"), Some(3));
        assert_eq!(timeout("/p.S/Add"), Some(2));
        assert_eq!(timeout("/p.S/Unknown"), Some(2));
        assert_eq!(timeout("/q.T/Unheard"), Some(4));
        assert_eq!(timeout("/q.T/Unknown"), Some(1));
        assert_eq!(timeout("no path"), Some(1));
    }

    #[test]
    fn a_retry_policy_of_a_service_holds_for_idempotent_methods_only() {
        let retry = Some(RetryPolicy { max_attempts: 4, ..RetryPolicy::default() });
        let config = MethodConfig { retry, ..MethodConfig::default() };
        let policies = policies(ServiceConfig::default().for_service("p.S", config));
        let retry = |path: &str| (policies.get(path).retry.applies, policies.get(path).retry.max_attempts);
        assert_eq!(retry("/p.S/Read"), (true, 4));
        assert!(!retry("/p.S/Add").0 && !retry("/p.S/Unknown").0);
    }

    #[test]
    fn a_retry_policy_of_one_method_is_the_operators_word() {
        let config = MethodConfig { retry: Some(RetryPolicy::default()), ..MethodConfig::default() };
        let with = ServiceConfig::default().for_method("p.S", "Add", config);
        assert!(policies(with).get("/p.S/Add").retry.applies);
        let without = ServiceConfig::default().for_method("p.S", "Add", timeout(1));
        assert!(!policies(without).get("/p.S/Add").retry.applies, "a time-out says nothing about retries");
    }

    #[test]
    fn retries_can_be_switched_off() {
        let config = MethodConfig { retry: Some(RetryPolicy::off()), ..MethodConfig::default() };
        let policies = policies(ServiceConfig::default().for_all(config));
        assert!(!policies.get("/p.S/Read").retry.applies);
    }

    #[test]
    fn a_method_that_may_be_sent_twice_is_hedged_and_its_retries_follow_the_hedging() {
        let non_fatal = Codes::of(&[Code::INTERNAL]);
        let delay = HedgeDelay::Fixed(Duration::from_millis(20));
        let hedging = Some(HedgingPolicy { max_attempts: 4, delay, non_fatal });
        let config = MethodConfig { hedging, ..MethodConfig::default() };
        let policies = policies(ServiceConfig::default().for_all(config));
        let read = policies.get("/p.S/Read");
        assert_eq!((read.hedging, read.hedge_delay()), (hedging, Some(Duration::from_millis(20))));
        assert_eq!((read.retry.max_attempts, read.retry.codes), (4, non_fatal));
        assert_eq!((read.retry.initial_backoff, read.retry.applies), (Duration::ZERO, true));
        let add = policies.get("/p.S/Add");
        assert_eq!((add.hedging, add.hedge_delay(), add.retry.applies), (None, None, false));
    }

    #[test]
    fn a_percentile_is_observed_per_method() {
        let config = MethodConfig { hedging: Some(HedgingPolicy::default()), ..MethodConfig::default() };
        let policies = policies(ServiceConfig::default().for_all(config).for_method(
            "p.S",
            "Unheard",
            MethodConfig { hedging: Some(HedgingPolicy::default()), ..MethodConfig::default() },
        ));
        let read = policies.get("/p.S/Read");
        assert_eq!(read.hedge_delay(), None);
        (0..200).for_each(|_| read.observe(Duration::from_millis(10)));
        assert!(read.hedge_delay().unwrap() >= Duration::from_millis(10));
        assert_eq!(policies.get("/p.S/Unheard").hedge_delay(), None);
    }

    #[test]
    fn settings_out_of_range_are_refused_by_name() {
        let with = |config| Policies::new(&methods(), &ServiceConfig::default().for_service("p.S", config));
        let retry = |retry| MethodConfig { retry: Some(retry), ..MethodConfig::default() };
        let said = |config| with(config).unwrap_err().to_string();
        let nan = said(retry(RetryPolicy { multiplier: f64::NAN, ..RetryPolicy::default() }));
        assert!(nan.contains("p.S") && nan.contains("multiplier") && nan.contains("NaN"), "{nan}");
        let none = said(retry(RetryPolicy { max_attempts: 0, ..RetryPolicy::default() }));
        assert!(none.contains("max_attempts"), "{none}");
        let hedging = |delay| Some(HedgingPolicy { delay, ..HedgingPolicy::default() });
        let odd = hedging(HedgeDelay::Percentile(100));
        let odd = said(MethodConfig { hedging: odd, ..MethodConfig::default() });
        assert!(odd.contains("percentile") && odd.contains("100"), "{odd}");
        let hedging = hedging(HedgeDelay::Fixed(Duration::ZERO));
        let both = said(MethodConfig { hedging, ..retry(RetryPolicy::default()) });
        assert!(both.contains("exclude each other"), "{both}");
    }
}
