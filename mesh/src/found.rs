//! How a command finds the mesh it talks to.

use anyhow::{Context, Result, bail};
use registry_client::{
    Mesh, MeshBuilder,
    consul::{Client, ClientBuilder, ConsulResolver},
};

use crate::{
    cli::Whereabouts,
    state::{Files, MeshFile, Process},
};

/// A mesh that is to be talked to.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// Its registry's URL.
    pub(crate) registry: String,
    /// The processes of the `mesh up` that runs it, if one is found here.
    pub(crate) processes: Vec<Process>,
}

impl Found {
    /// A mesh that runs on a state directory that is named wins; then
    /// `CONSUL_HTTP_ADDR`; then the state directory in the current folder.
    ///
    /// # Errors
    /// When there is none of them.
    pub(crate) fn find(at: &Whereabouts) -> Result<Self> {
        let files = Files::of(at.state_dir.as_deref())?;
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

    /// What looks instances up.
    ///
    /// # Errors
    /// When a `CONSUL_*` variable cannot mean anything.
    pub(crate) fn resolver(&self) -> Result<ConsulResolver> {
        Ok(ConsulResolver::new(client(&self.registry)?))
    }

    /// What calls go through: as the environment says, but on this registry.
    ///
    /// # Errors
    /// When a `CONSUL_*` or `CONSORT_*` variable cannot mean anything.
    pub(crate) fn mesh(&self) -> Result<Mesh> {
        mesh(&self.registry)
    }
}

impl From<MeshFile> for Found {
    fn from(mesh: MeshFile) -> Self {
        Self { registry: mesh.registry, processes: mesh.instances }
    }
}

/// A client of the registry at `url`, with the token and the certificates of
/// the environment.
///
/// # Errors
/// When a `CONSUL_*` variable cannot mean anything.
pub(crate) fn client(url: &str) -> Result<Client> {
    Ok(ClientBuilder::from_env()?.addr(url).build()?)
}

/// A mesh on the registry at `url`, otherwise as the environment says.
///
/// # Errors
/// When a `CONSUL_*` or `CONSORT_*` variable cannot mean anything.
pub(crate) fn mesh(url: &str) -> Result<Mesh> {
    MeshBuilder::from_env()?
        .descriptors(mesh_proto::FILE_DESCRIPTOR_SET)
        .consul(client(url)?)
        .build()
        .context("could not set up the mesh")
}

/// An address as `CONSUL_HTTP_ADDR` has it, with its scheme.
pub(crate) fn url(address: &str) -> String {
    let address = address.trim_end_matches('/');
    if address.contains("://") { address.to_owned() } else { format!("http://{address}") }
}
