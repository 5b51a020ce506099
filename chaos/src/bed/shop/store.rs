//! Where a shop keeps its data.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{Postgres, Service};
use crate::{bed::Setting, cli::Database};

/// A database for each service.
#[derive(Debug)]
pub(super) enum Store {
    /// SQLite files in a folder.
    Files(PathBuf),
    /// Databases on one server.
    Server(Box<Postgres>),
}

impl Store {
    /// Makes it, in `folder` if one is named.
    ///
    /// # Errors
    /// When the folder cannot be made or the server does not come up.
    pub(super) async fn start(setting: &Setting, folder: Option<&Path>) -> Result<Self> {
        if setting.db == Database::Postgres {
            let mut server = Postgres::start(setting, folder).await?;
            for service in Service::ALL {
                server.create(service.short()).await?;
            }
            return Ok(Self::Server(Box::new(server)));
        }
        let folder = folder.map_or_else(|| setting.logs.join("data"), Path::to_owned);
        fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
        Ok(Self::Files(folder))
    }

    /// The `DATABASE_URL` of a service.
    pub(super) fn url(&self, service: Service) -> String {
        match self {
            Self::Files(folder) => {
                format!("sqlite:{}", folder.join(format!("{}.db", service.short())).display())
            }
            Self::Server(server) => server.url(service.short()),
        }
    }

    pub(super) fn postgres(&mut self) -> Option<&mut Postgres> {
        match self {
            Self::Files(_) => None,
            Self::Server(server) => Some(server),
        }
    }

    pub(super) fn files(&self) -> Option<&Path> {
        match self {
            Self::Files(folder) => Some(folder),
            Self::Server(_) => None,
        }
    }
}
