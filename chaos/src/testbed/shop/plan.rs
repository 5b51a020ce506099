//! The plan of a shop, before it is started.

use std::{collections::BTreeSet, ffi::OsString};

use anyhow::Result;

use super::Service;
use crate::{setting::ScenarioSetting, testbed::child::this_program};

/// The default number of replicas of each service.
const DEFAULT_REPLICAS: usize = 2;

/// The plan of a shop: by default two replicas of each service, on the database
/// of `--db`, without faults.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(super) setting: ScenarioSetting,
    replicas: Vec<(Service, usize)>,
    env: Vec<(Service, String, String)>,
    wrappers: Vec<(Service, Vec<OsString>)>,
    own_databases: Vec<Service>,
    pub(super) nats: bool,
}

impl Plan {
    pub(crate) fn new(setting: &ScenarioSetting) -> Self {
        Self {
            setting: setting.clone(),
            replicas: Vec::new(),
            env: Vec::new(),
            wrappers: Vec::new(),
            own_databases: Vec::new(),
            nats: false,
        }
    }

    /// Sets the number of replicas of `service`; the last call counts.
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
    /// that runs the command behind its own arguments.
    #[must_use]
    pub(crate) fn wrap(mut self, service: Service, command: &[&str]) -> Self {
        self.wrappers.push((service, command.iter().map(OsString::from).collect()));
        self
    }

    /// Gives each replica of `service` a database of its own, so that no other
    /// replica resumes its work.
    #[must_use]
    pub(crate) fn with_own_databases(mut self, service: Service) -> Self {
        self.own_databases.push(service);
        self
    }

    /// Sends events over a real NATS server.
    #[must_use]
    pub(crate) fn with_nats(mut self) -> Self {
        self.nats = true;
        self
    }

    pub(super) fn count(&self, service: Service) -> usize {
        let configured = self.replicas.iter().rev().find(|(of, _)| *of == service);
        configured.map_or(DEFAULT_REPLICAS, |(_, count)| *count)
    }

    /// The name of the database of the `n`-th replica of `service`.
    pub(super) fn database(&self, service: Service, n: usize) -> String {
        let short = service.short_name();
        if self.own_databases.contains(&service) { format!("{short}_{n}") } else { short.to_owned() }
    }

    /// The names of all databases.
    pub(super) fn databases(&self) -> BTreeSet<String> {
        let of = |service| (1..=self.count(service)).map(move |n| self.database(service, n));
        Service::ALL.into_iter().flat_map(of).collect()
    }

    /// The command that starts a replica of `service`, with `env` and the
    /// variables of the plan.
    pub(super) fn command(&self, service: Service, env: Vec<(String, String)>) -> Result<Vec<OsString>> {
        let env_of_plan = self.env.iter().filter(|(of, ..)| *of == service);
        let env_of_plan = env_of_plan.map(|(_, name, value)| (name.clone(), value.clone()));
        let mut command = vec![OsString::from("env")];
        command
            .extend(env.into_iter().chain(env_of_plan).map(|(name, value)| format!("{name}={value}").into()));
        let wrap = self.wrappers.iter().filter(|(of, _)| *of == service);
        command.extend(wrap.flat_map(|(_, command)| command.iter().cloned()));
        command.extend(this_program(&["serve-shop", service.name()])?);
        if let Some(without) = self.setting.without {
            command.extend(["--without", without].map(OsString::from));
        }
        Ok(command)
    }
}
