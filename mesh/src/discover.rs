//! Finds the running mesh that a command works on.

use anyhow::{Context, Result, bail};
use registry_client::{
    Mesh, MeshBuilder,
    consul::{Client, ClientBuilder, ConsulResolver},
};

use crate::{
    cli::MeshLocation,
    state::{MeshFile, Process, StatePaths},
};

/// A running mesh.
#[derive(Clone, Debug)]
pub(crate) struct RunningMesh {
    /// The registry's URL.
    pub(crate) registry: String,
    /// The processes of its `mesh up`, if that runs on the state directory.
    pub(crate) processes: Vec<Process>,
}

impl RunningMesh {
    /// Finds the mesh. A mesh on the given state directory wins; then
    /// `CONSUL_HTTP_ADDR`; then the state directory in the current folder.
    ///
    /// # Errors
    /// When there is none of them.
    pub(crate) fn find(at: &MeshLocation) -> Result<Self> {
        let files = StatePaths::of(at.state_dir.as_deref())?;
        let named = at.state_dir.is_some();
        match (files.running()?, at.consul().map(url)) {
            (Some(mesh), None) => Ok(mesh.into()),
            (Some(mesh), Some(_)) if named => Ok(mesh.into()),
            (Some(mesh), Some(registry)) if mesh.registry == registry => Ok(mesh.into()),
            (_, Some(registry)) => Ok(Self { registry, processes: Vec::new() }),
            (None, None) => bail!(
                "no mesh runs on {}: start one with `mesh up`, or name another with --state-dir or CONSUL_HTTP_ADDR",
                files.dir().display()
            ),
        }
    }

    /// A resolver on this registry.
    ///
    /// # Errors
    /// When a `CONSUL_*` variable is invalid.
    pub(crate) fn resolver(&self) -> Result<ConsulResolver> {
        Ok(ConsulResolver::new(client(&self.registry)?))
    }

    /// A mesh on this registry, otherwise configured by the environment.
    ///
    /// # Errors
    /// When a `CONSUL_*` or `CONSORT_*` variable is invalid.
    pub(crate) fn mesh(&self) -> Result<Mesh> {
        mesh(&self.registry)
    }
}

impl From<MeshFile> for RunningMesh {
    fn from(mesh: MeshFile) -> Self {
        Self { registry: mesh.registry, processes: mesh.instances }
    }
}

/// A client of the registry at `url`, with the token and the certificates from
/// the environment.
///
/// # Errors
/// When a `CONSUL_*` variable is invalid.
pub(crate) fn client(url: &str) -> Result<Client> {
    Ok(ClientBuilder::from_env()?.addr(url).build()?)
}

/// A mesh on the registry at `url`, otherwise configured by the environment.
///
/// # Errors
/// When a `CONSUL_*` or `CONSORT_*` variable is invalid.
pub(crate) fn mesh(url: &str) -> Result<Mesh> {
    MeshBuilder::from_env()?
        .descriptors(mesh_proto::FILE_DESCRIPTOR_SET)
        .consul(client(url)?)
        .build()
        .context("could not set up the mesh")
}

/// Adds the scheme to an address from `CONSUL_HTTP_ADDR`.
pub(crate) fn url(address: &str) -> String {
    let address = address.trim_end_matches('/');
    if address.contains("://") { address.to_owned() } else { format!("http://{address}") }
}
