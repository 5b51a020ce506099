//! Which gate is before which method.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    super::{
        described::{self, Method},
        state::MethodState,
    },
    gate::Gate,
    gradient::Bounds,
};
use crate::{AdmissionConfig, Error};

/// The most streams of reflection at once, each of which is a task with its
/// buffers: people look into a server by it.
const MAX_REFLECTION: usize = 100;

/// The gates of a server; made once, then only read.
#[derive(Debug)]
pub(super) struct Methods {
    /// Its keys come from descriptors and configuration, never from a peer, so a
    /// fast hash does.
    by_path: HashMap<Box<str>, Way, foldhash::fast::RandomState>,
    services: HashSet<&'static str>,
    streams: Arc<Gate>,
    reflection: Arc<Gate>,
    undescribed: Arc<Gate>,
}

/// How a call of a method comes in.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// How long its handler takes says how much the server can do.
    Call(Arc<Gate>),
    /// How long it takes says nothing.
    Stream(Arc<Gate>),
    /// Does not count.
    Free,
}

impl Methods {
    /// Gates for what `services` are described to have.
    ///
    /// # Errors
    /// When a descriptor set is not one.
    pub(super) fn new(
        config: &AdmissionConfig,
        services: &[&'static str],
        descriptors: &[&'static [u8]],
    ) -> Result<Self, Error> {
        let streams = Gate::fixed("streaming methods", config.max_streams);
        let max = config.max.max(1);
        let min = config.min.clamp(1, max);
        let bounds = Bounds { min, max, initial: config.initial.clamp(min, max) };
        let mut by_path = HashMap::default();
        for Method { path, kind } in described::methods(services, descriptors)? {
            let way = if kind.client_streaming || kind.server_streaming {
                Way::Stream(streams.clone())
            } else {
                let name = path.trim_start_matches('/');
                Way::Call(Gate::new(name, bounds, config.queue, config.queue_wait))
            };
            by_path.insert(path, way);
        }
        for path in &config.exempt {
            by_path.insert(format!("/{}", path.trim_start_matches('/')).into(), Way::Free);
        }
        let reflection = Gate::fixed("reflection", MAX_REFLECTION);
        let undescribed = Gate::fixed("methods without a descriptor", bounds.max);
        Ok(Self { by_path, services: services.iter().copied().collect(), streams, reflection, undescribed })
    }

    /// How much there is to do at each gate, by name.
    pub(super) fn state(&self) -> Vec<MethodState> {
        let calls = self.by_path.values().filter_map(|way| match way {
            Way::Call(gate) => Some(gate),
            Way::Stream(_) | Way::Free => None,
        });
        let mut states: Vec<_> = calls.map(|gate| gate.state_now()).collect();
        states.sort_by(|a, b| a.method.cmp(&b.method));
        states.extend([self.streams.state_now(), self.undescribed.state_now()]);
        states
    }

    /// The way of a request to the method at `path`, where it is described.
    pub(super) fn find(&self, path: &str) -> Option<&Way> {
        self.by_path.get(path)
    }

    /// The way of a request to `path`. Health and what is not served at all are
    /// free.
    pub(super) fn way(&self, path: &str) -> Way {
        if let Some(way) = self.find(path) {
            return way.clone();
        }
        let service = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        if self.services.contains(service) {
            Way::Call(self.undescribed.clone())
        } else if service.starts_with("grpc.reflection.") {
            Way::Stream(self.reflection.clone())
        } else {
            Way::Free
        }
    }
}
