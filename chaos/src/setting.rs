//! The settings of one run of a scenario.

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use clap::ValueEnum;
use registry_client::{
    ChannelConfig, Mesh,
    balance::Balancer,
    consul::{Client, ConsulResolver},
    policy::budget::BudgetConfig,
};

use crate::{
    attack::Attack,
    mechanism::{CLIENT_LIMITS, NEVER},
    proto::DESCRIPTORS,
};

mod trusting_resolver;

use trusting_resolver::{Trust, TrustingResolver};

/// The settings of one run of a scenario.
#[derive(Clone, Debug)]
pub(crate) struct ScenarioSetting {
    pub(crate) size: Size,
    /// The mechanism that is switched off.
    pub(crate) without: Option<&'static str>,
    /// The folder of the processes' logs and data.
    pub(crate) logs: PathBuf,
    /// The program of the real Consul.
    pub(crate) consul: PathBuf,
    /// The database of the shop.
    pub(crate) db: Database,
    /// The implementation of the replicas.
    pub(crate) server_kind: ServerKind,
    /// The program of the replicas that are grpc-go servers.
    pub(crate) grpc_go: PathBuf,
    /// The attacks to run; empty means all.
    pub(crate) attacks: Vec<&'static Attack>,
}

/// The implementation of the replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerKind {
    /// This program.
    Consort,
    /// A stock grpc-go server.
    GrpcGo,
    /// A grpc-go server behind Go's `net/http`, which can end a call without a
    /// status.
    GoHttp,
}

/// The length of scenarios.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Size {
    /// Seconds: the fault once.
    Quick,
    /// About a minute each.
    Usual,
    /// The length that RELIABILITY.md promises.
    Full,
}

/// A database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Database {
    /// Files.
    Sqlite,
    /// A server.
    Postgres,
}

impl ScenarioSetting {
    /// The value for the size of this run.
    pub(crate) fn sized<T>(&self, quick: T, usual: T, full: T) -> T {
        match self.size {
            Size::Quick => quick,
            Size::Usual => usual,
            Size::Full => full,
        }
    }

    /// The time of load before the fault.
    pub(crate) fn warm_up(&self) -> Duration {
        Duration::from_secs(self.sized(2, 5, 5))
    }

    /// Returns whether that mechanism is switched off.
    pub(crate) fn is_disabled(&self, mechanism: &str) -> bool {
        self.without == Some(mechanism)
    }

    /// The channel configuration of the load, as in RELIABILITY.md, without the
    /// mechanism that is switched off.
    pub(crate) fn channel_config(&self) -> ChannelConfig {
        let mut config = ChannelConfig::default();
        config.deadline = Duration::from_secs(1);
        config.keepalive_time = Duration::from_secs(1);
        config.keepalive_timeout = Duration::from_millis(500);
        config.connect_timeout = Duration::from_secs(1);
        if self.is_disabled("keep-alive") {
            // A server that owes responses is pinged after half the shorter of
            // these.
            (config.keepalive_time, config.keepalive_timeout) = (NEVER, NEVER);
        }
        if self.is_disabled("outlier detection") {
            config.outlier = None;
        }
        if self.is_disabled("growing ejections") {
            let outlier = config.outlier.get_or_insert_default();
            outlier.max_ejection_time = outlier.base_ejection_time;
        }
        if self.is_disabled(CLIENT_LIMITS) {
            config.service_config.throttle = None;
        }
        if self.is_disabled("retry budget") || self.is_disabled(CLIENT_LIMITS) {
            config.service_config.budget = BudgetConfig::Share { ratio: 100.0, min_per_second: 1_000_000 };
        }
        if self.is_disabled("least_request") {
            config.balancer = Balancer::RoundRobin;
        }
        config
    }

    /// A mesh with that configuration on `consul`.
    ///
    /// # Errors
    /// Never: the settings are valid.
    pub(crate) fn mesh(&self, consul: Client, config: ChannelConfig) -> Result<Mesh> {
        let mut builder = Mesh::builder().consul(consul.clone()).channel_config(config);
        let levels = [("doubt", Trust::EveryResponse), ("panic", Trust::Critical)];
        if let Some((_, level)) = levels.into_iter().find(|(mechanism, _)| self.is_disabled(mechanism)) {
            builder = builder.resolver(TrustingResolver { inner: ConsulResolver::new(consul), level });
        }
        if !self.is_disabled("snapshot") {
            builder = builder.state_dir(self.logs.join("state"));
        }
        // Without descriptors no method is known as idempotent, so none is
        // retried.
        let builder = if self.is_disabled("retry") { builder } else { builder.descriptors(DESCRIPTORS) };
        Ok(builder.build()?)
    }
}
