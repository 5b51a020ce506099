//! How a command finds the mesh it talks to.

use anyhow::{Context, Result, bail};
use registry_client::{
    Mesh, MeshBuilder,
    consul::{Client, ClientBuilder, ConsulResolver},
};

use crate::{
    cli::Whereabouts,
    state::{Files, Process},
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
    /// A state directory that is named wins; then `CONSUL_HTTP_ADDR`; then the
    /// state directory in the current folder.
    ///
    /// # Errors
    /// When there is none of them.
    pub(crate) fn find(at: &Whereabouts) -> Result<Self> {
        let files = Files::of(at.state_dir.as_deref())?;
        let running = files.running()?;
        let address = at.consul();
        let processes = running.as_ref().filter(|r| r.alive).map(|r| r.file.instances.clone());
        match (running, address) {
            (Some(running), None) => Self::up(&running.file.registry, processes),
            (Some(running), Some(_)) if at.state_dir.is_some() => Self::up(&running.file.registry, processes),
            (running, Some(address)) => {
                let registry = url(address);
                let same = running.is_some_and(|r| r.file.registry == registry);
                Self::up(&registry, processes.filter(|_| same))
            }
            (None, None) => bail!(
                "no mesh runs on {}: start one with `mesh up`, or name another with --state-dir or CONSUL_HTTP_ADDR",
                files.dir().display()
            ),
        }
    }

    fn up(registry: &str, processes: Option<Vec<Process>>) -> Result<Self> {
        Ok(Self { registry: registry.to_owned(), processes: processes.unwrap_or_default() })
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
        .resolver(ConsulResolver::new(client(url)?))
        .build()
        .context("could not set up the mesh")
}

/// An address as `CONSUL_HTTP_ADDR` has it, with its scheme.
pub(crate) fn url(address: &str) -> String {
    let address = address.trim_end_matches('/');
    if address.contains("://") { address.to_owned() } else { format!("http://{address}") }
}
