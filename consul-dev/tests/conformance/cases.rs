//! The cases, by the part of the API.

mod blocking;
mod catalog;
mod checks;
mod connections;
mod filter;
mod general;
mod health;
mod kv;
mod maintenance;
mod registration;
mod services;
mod thresholds;

use std::future::Future;
use std::pin::Pin;

use serde_json::{Value, json};

use crate::agents::Target;

type Run = Box<dyn FnOnce(Target) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// A behaviour that both agents must share.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: Run,
    /// True if it must not run beside other cases.
    pub(crate) alone: bool,
    /// The first Consul version with this behaviour, and the earlier
    /// difference.
    pub(crate) since: Option<((u64, u64, u64), &'static str)>,
}

impl Case {
    fn new<F>(name: &'static str, run: impl FnOnce(Target) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self { name, run: Box::new(move |target| Box::pin(run(target))), alone: false, since: None }
    }

    fn alone(self) -> Self {
        Self { alone: true, ..self }
    }

    fn since(self, version: (u64, u64, u64), reason: &'static str) -> Self {
        Self { since: Some((version, reason)), ..self }
    }
}

/// Makes cases of functions, each with the name of its function.
macro_rules! cases {
    ($($case:ident $(. $modifier:ident($($argument:expr),*))*),* $(,)?) => {
        vec![$($crate::cases::Case::new(
            concat!(module_path!(), "::", stringify!($case)), $case,
        )$(.$modifier($($argument),*))*),*]
    };
}
use cases;

/// All cases.
pub(crate) fn all() -> Vec<Case> {
    [
        general::cases(),
        registration::cases(),
        services::cases(),
        checks::cases(),
        thresholds::cases(),
        maintenance::cases(),
        health::cases(),
        catalog::cases(),
        filter::cases(),
        blocking::cases(),
        kv::cases(),
        connections::cases(),
    ]
    .into_iter()
    .flatten()
    .map(|case| Case { name: case.name.trim_start_matches("conformance::cases::"), ..case })
    .collect()
}

/// The headers of a response without an index.
const PLAIN: &[&str] = &["content-type", "x-consul-default-acl-policy"];

/// The headers of a read of health or the catalog.
const QUERY: &[&str] = &[
    "content-type",
    "x-consul-default-acl-policy",
    "x-consul-effective-consistency",
    "x-consul-index",
    "x-consul-knownleader",
    "x-consul-lastcontact",
    "x-consul-query-backend",
];

/// The node in health and catalog reads.
fn node(target: &Target) -> Value {
    let mut node = json!({
        "ID": "<uuid>", "Node": "conformance", "Address": "127.0.0.1", "Datacenter": "dc1",
        "TaggedAddresses": {
            "lan": "127.0.0.1", "lan_ipv4": "127.0.0.1", "wan": "127.0.0.1", "wan_ipv4": "127.0.0.1",
        },
        "Meta": {"consul-network-segment": "", "consul-version": "1.22.5"},
        "CreateIndex": "<index>", "ModifyIndex": "<index>",
    });
    let (major, minor, patch) = target.version;
    if target.since(1, 14) {
        node["Meta"]["consul-version"] = json!(format!("{major}.{minor}.{patch}"));
    } else {
        node["Meta"] = json!({"consul-network-segment": ""});
    }
    node
}

/// A check of the agent (`indexed` false) or the catalog, in which `overrides` replace the defaults.
fn check(target: &Target, indexed: bool, overrides: Value) -> Value {
    let index = if indexed { json!("<index>") } else { json!(0) };
    let mut check = json!({
        "Node": "conformance", "CheckID": "", "Name": "", "Status": "critical", "Notes": "", "Output": "",
        "ServiceID": "", "ServiceName": "", "ServiceTags": [], "Type": "", "Definition": {},
        "CreateIndex": index, "ModifyIndex": index,
    });
    for (key, empty) in [("Interval", json!("")), ("Timeout", json!("")), ("ExposedPort", json!(0))] {
        check[key] = empty;
    }
    merge(&mut check, overrides);
    if let (false, Value::Object(members)) = (target.since(1, 22), &mut check) {
        // Older agents do not have these.
        members.retain(|key, _| !["Interval", "Timeout", "ExposedPort"].contains(&key.as_str()));
        members.insert("<more>".to_owned(), json!(true));
    }
    check
}

/// The check of the agent's liveness.
fn serf_health(target: &Target) -> Value {
    let overrides = json!({
        "CheckID": "serfHealth", "Name": "Serf Health Status", "Status": "passing",
        "Output": "Agent alive and reachable",
    });
    check(target, true, overrides)
}

fn merge(into: &mut Value, overrides: Value) {
    let Value::Object(overrides) = overrides else { panic!("overrides are an object") };
    for (key, value) in overrides {
        into[key] = value;
    }
}
