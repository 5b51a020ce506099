//! What a shop is to be, before it is started.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::Result;

use super::Service;
use crate::testbed::{ScenarioSetting, child::this_program};

/// Replicas of each service unless said otherwise.
const REPLICAS: usize = 2;

/// What a shop is to be: two replicas of each service, on the database that
/// `--db` says, with nothing wrong.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(super) setting: ScenarioSetting,
    replicas: Vec<(Service, usize)>,
    env: Vec<(Service, String, String)>,
    through: Vec<(Service, Vec<OsString>)>,
    apart: Vec<Service>,
    pub(super) nats: bool,
    pub(super) data: Option<PathBuf>,
}

impl Plan {
    pub(crate) fn new(setting: &ScenarioSetting) -> Self {
        Self {
            setting: setting.clone(),
            replicas: Vec::new(),
            env: Vec::new(),
            through: Vec::new(),
            apart: Vec::new(),
            nats: false,
            data: None,
        }
    }

    /// So many replicas of `service`; the last word counts.
    #[must_use]
    pub(crate) fn replicas(mut self, service: Service, count: usize) -> Self {
        self.replicas.push((service, count));
        self
    }

    /// Sets a variable of the replicas of `service`, such as its faults.
    #[must_use]
    pub(crate) fn env(mut self, service: Service, name: &str, value: &str) -> Self {
        self.env.push((service, name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the replicas of `service` through a program, such as `strace -f`,
    /// that runs the words which follow its own.
    #[must_use]
    pub(crate) fn through(mut self, service: Service, words: &[&str]) -> Self {
        self.through.push((service, words.iter().map(OsString::from).collect()));
        self
    }

    /// Gives each replica of `service` a database of its own: nothing that one
    /// has left is another's to carry on.
    #[must_use]
    pub(crate) fn apart(mut self, service: Service) -> Self {
        self.apart.push(service);
        self
    }

    /// Events go over a real NATS server.
    #[must_use]
    pub(crate) fn with_nats(mut self) -> Self {
        self.nats = true;
        self
    }

    /// Keeps the data in that folder, such as a small tmpfs, instead of one
    /// beside the logs.
    #[must_use]
    pub(crate) fn data(mut self, folder: &Path) -> Self {
        self.data = Some(folder.to_owned());
        self
    }

    pub(super) fn count(&self, service: Service) -> usize {
        let said = self.replicas.iter().rev().find(|(of, _)| *of == service);
        said.map_or(REPLICAS, |(_, count)| *count)
    }

    /// The name of the database of the `n`-th replica of `service`.
    pub(super) fn database(&self, service: Service, n: usize) -> String {
        let short = service.short();
        if self.apart.contains(&service) { format!("{short}_{n}") } else { short.to_owned() }
    }

    /// The names of all databases.
    pub(super) fn databases(&self) -> BTreeSet<String> {
        let of = |service| (1..=self.count(service)).map(move |n| self.database(service, n));
        Service::ALL.into_iter().flat_map(of).collect()
    }

    /// The words that start a replica of `service`, with `env` and what the
    /// plan sets on top.
    pub(super) fn words(&self, service: Service, env: Vec<(String, String)>) -> Result<Vec<OsString>> {
        let planned = self.env.iter().filter(|(of, ..)| *of == service);
        let planned = planned.map(|(_, name, value)| (name.clone(), value.clone()));
        let mut words = vec![OsString::from("env")];
        words.extend(env.into_iter().chain(planned).map(|(name, value)| format!("{name}={value}").into()));
        let through = self.through.iter().filter(|(of, _)| *of == service);
        words.extend(through.flat_map(|(_, words)| words.iter().cloned()));
        words.extend(this_program(&["serve-shop", service.name()])?);
        if let Some(without) = self.setting.without {
            words.extend(["--without", without].map(OsString::from));
        }
        Ok(words)
    }
}
