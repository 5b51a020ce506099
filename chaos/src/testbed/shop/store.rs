//! The data of a shop.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{Plan, Postgres};
use crate::setting::Database;

/// A database for each service.
#[derive(Debug)]
pub(super) enum Store {
    /// SQLite files in a folder.
    Files(PathBuf),
    /// Databases on one server.
    Server(Box<Postgres>),
}

impl Store {
    /// Creates the databases of `plan`.
    ///
    /// # Errors
    /// When the folder cannot be created or the server does not start.
    pub(super) async fn start(plan: &Plan) -> Result<Self> {
        let setting = &plan.setting;
        if setting.db == Database::Postgres {
            let mut server = Postgres::start(setting).await?;
            for database in plan.databases() {
                server.create(&database).await?;
            }
            return Ok(Self::Server(Box::new(server)));
        }
        let folder = setting.logs.join("data");
        fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
        Ok(Self::Files(folder))
    }

    /// The `DATABASE_URL` of the database of that name.
    pub(super) fn url(&self, database: &str) -> String {
        match self {
            Self::Files(folder) => format!("sqlite:{}", folder.join(format!("{database}.db")).display()),
            Self::Server(server) => server.url(database),
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
