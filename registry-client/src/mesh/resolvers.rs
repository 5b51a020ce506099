//! The resolver of each service.

use std::{collections::HashMap, fmt::Display, path::Path, sync::Arc};

use crate::{
    Error, SnapshotResolver,
    consul::{Client, ConsulResolver, Discovery},
    instance::ServiceName,
    resolve::Resolver,
};

/// The mesh's resolver, and those of services with a discovery of their own.
pub(super) struct Resolvers {
    default: Arc<dyn Resolver>,
    /// The resolvers by service, in lower case as in Consul.
    by_service: HashMap<String, Arc<dyn Resolver>>,
}

impl Resolvers {
    /// The resolvers of a mesh; `custom` replaces Consul. The last discovery of
    /// a service holds.
    pub(super) fn new(
        consul: Option<&Client>,
        custom: Option<Arc<dyn Resolver>>,
        discoveries: Vec<(String, Discovery)>,
        state_dir: Option<&Path>,
    ) -> Result<Self, Error> {
        match (custom, consul, discoveries.first()) {
            (Some(_), _, Some((service, _))) => Err(Error::Config(format!(
                "`{service}` has a discovery of its own (MeshBuilder::discover), which needs Consul, and the mesh \
                 finds instances by another resolver (MeshBuilder::resolver): leave out one of the two"
            ))),
            (Some(custom), _, None) => {
                let default = match state_dir {
                    Some(dir) => Arc::new(SnapshotResolver::new(custom, dir)),
                    None => custom,
                };
                Ok(Self { default, by_service: HashMap::new() })
            }
            (None, Some(consul), _) => Self::in_consul(consul, discoveries, state_dir),
            (None, None, _) => Err(Error::Config(
                "the mesh has no registry; give it one by `consul` or `resolver`".to_owned(),
            )),
        }
    }

    fn in_consul(
        consul: &Client,
        discoveries: Vec<(String, Discovery)>,
        state_dir: Option<&Path>,
    ) -> Result<Self, Error> {
        let default = ConsulResolver::new(consul.clone());
        let snapshot_saved_at = state_dir.map(|dir| SnapshotResolver::new(default.clone(), dir));
        let remember = |resolver: ConsulResolver| -> Arc<dyn Resolver> {
            match &snapshot_saved_at {
                Some(snapshot_saved_at) => Arc::new(snapshot_saved_at.with_inner(resolver)),
                None => Arc::new(resolver),
            }
        };
        let mut by_service = HashMap::new();
        for (service, discovery) in discoveries {
            let invalid = |why: &dyn Display| {
                Error::Config(format!(
                    "the discovery of `{service}` (MeshBuilder::discover) is invalid: {why}"
                ))
            };
            let name: ServiceName = service.parse().map_err(|why| invalid(&why))?;
            discovery.validate().map_err(|why| invalid(&why))?;
            by_service.insert(key(&name), remember(default.clone().with_discovery(discovery)));
        }
        Ok(Self { default: remember(default), by_service })
    }

    /// The resolver of `service`.
    pub(super) fn of(&self, service: &ServiceName) -> &Arc<dyn Resolver> {
        self.by_service.get(&key(service)).unwrap_or(&self.default)
    }
}

fn key(service: &ServiceName) -> String {
    service.as_str().to_ascii_lowercase()
}
