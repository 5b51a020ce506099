//! The concurrency limiter of each method.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    super::{
        descriptors::{self, MethodDescriptor},
        state::MethodState,
    },
    gradient::Bounds,
    limiter::ConcurrencyLimiter,
};
use crate::{AdmissionConfig, Error};

/// The most concurrent streams of reflection, each of which is a task with
/// buffers; people inspect a server by them.
const MAX_REFLECTION_STREAMS: usize = 100;

/// The limiters of a server; created once, then only read.
#[derive(Debug)]
pub(super) struct MethodLimiters {
    /// The keys come from descriptors and configuration, never from a peer, so
    /// a fast hash is safe.
    by_path: HashMap<Box<str>, MethodClass, foldhash::fast::RandomState>,
    services: HashSet<&'static str>,
    streams: Arc<ConcurrencyLimiter>,
    reflection: Arc<ConcurrencyLimiter>,
    undescribed: Arc<ConcurrencyLimiter>,
}

/// The class of a method in admission control.
#[derive(Clone, Debug)]
pub(super) enum MethodClass {
    /// A unary method, whose latency measures the load.
    Unary(Arc<ConcurrencyLimiter>),
    /// A streaming method, whose duration says nothing about load.
    Streaming(Arc<ConcurrencyLimiter>),
    /// A method without a limit.
    Exempt,
}

impl MethodLimiters {
    /// The limiters for the described methods of `services`.
    ///
    /// # Errors
    /// When a descriptor set cannot be decoded.
    pub(super) fn new(
        config: &AdmissionConfig,
        services: &[&'static str],
        descriptors: &[&'static [u8]],
    ) -> Result<Self, Error> {
        let streams = ConcurrencyLimiter::fixed("streaming methods", config.max_streams);
        let max = config.max.max(1);
        let min = config.min.clamp(1, max);
        let bounds = Bounds { min, max, initial: config.initial.clamp(min, max) };
        let mut by_path = HashMap::default();
        for MethodDescriptor { path, kind } in descriptors::methods(services, descriptors)? {
            let class = if kind.client_streaming || kind.server_streaming {
                MethodClass::Streaming(streams.clone())
            } else {
                let name = path.trim_start_matches('/');
                MethodClass::Unary(ConcurrencyLimiter::new(name, bounds, config.queue, config.queue_wait))
            };
            by_path.insert(path, class);
        }
        for path in &config.exempt {
            by_path.insert(format!("/{}", path.trim_start_matches('/')).into(), MethodClass::Exempt);
        }
        let reflection = ConcurrencyLimiter::fixed("reflection", MAX_REFLECTION_STREAMS);
        let undescribed = ConcurrencyLimiter::fixed("methods without a descriptor", bounds.max);
        Ok(Self { by_path, services: services.iter().copied().collect(), streams, reflection, undescribed })
    }

    /// The load of each limiter, by name.
    pub(super) fn state(&self) -> Vec<MethodState> {
        let calls = self.by_path.values().filter_map(|class| match class {
            MethodClass::Unary(limiter) => Some(limiter),
            MethodClass::Streaming(_) | MethodClass::Exempt => None,
        });
        let mut states: Vec<_> = calls.map(|limiter| limiter.snapshot()).collect();
        states.sort_by(|a, b| a.method.cmp(&b.method));
        states.extend([self.streams.snapshot(), self.undescribed.snapshot()]);
        states
    }

    /// The class of the method at `path`, if it is described.
    pub(super) fn find_class(&self, path: &str) -> Option<&MethodClass> {
        self.by_path.get(path)
    }

    /// The class of the method at `path`. Health and unknown services are
    /// exempt.
    pub(super) fn class(&self, path: &str) -> MethodClass {
        if let Some(class) = self.find_class(path) {
            return class.clone();
        }
        let service = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        if self.services.contains(service) {
            MethodClass::Unary(self.undescribed.clone())
        } else if service.starts_with("grpc.reflection.") {
            MethodClass::Streaming(self.reflection.clone())
        } else {
            MethodClass::Exempt
        }
    }
}
