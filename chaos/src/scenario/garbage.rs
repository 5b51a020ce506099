//! R16: what the registry answers means nothing.

use std::{
    fs,
    panic::{set_hook, take_hook},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use registry_client::{
    consul::{ConsulResolver, HealthQuery},
    resolve::Resolver,
};
use tokio::time::{Instant, interval};

use crate::{
    load::{Load, Mix},
    testbed::{FakeRegistry, FakeResponse, RegistryKind, SERVICE, ScenarioSetting, Testbed},
    verdict::ScenarioOutcome,
};

/// By how much memory may grow.
const MEMORY: usize = 64 << 20;
/// How many answers are to be garbage.
const MUTATIONS: usize = 200;
/// Who asks besides the load, so that there are enough questions.
const ASKERS: usize = 20;
/// A time without a send that means that an endpoint was dropped.
const DROPPED: Duration = Duration::from_secs(1);

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let mutations = setting.sized(40, MUTATIONS, 2 * MUTATIONS);
    let each = Duration::from_millis(setting.sized(300, 1500, 1500));
    let panics = count_panics();
    let testbed = Testbed::start(&setting, RegistryKind::Dev, 3).await?;
    let fake_registry = FakeRegistry::in_front_of(testbed.registry.address()).await?;
    let askers: Vec<_> = (0..ASKERS)
        .map(|_| Ok(ConsulResolver::new(fake_registry.client()?).resolve(&SERVICE.parse()?)))
        .collect::<Result<_>>()?;
    let mesh = setting.mesh(fake_registry.client()?, setting.channel_config())?;
    let load = Load::start(mesh.channel(SERVICE), Mix::Both)?;
    load.run_for(setting.warm_up()).await;
    let (from, asked, before) = (load.elapsed(), fake_registry.requests(), resident()?);
    let mut most = before;
    let entry = entry(&testbed).await?;
    // Every kind at least once.
    while fake_registry.requests() - asked < mutations {
        for lie in garbage(&entry) {
            fake_registry.respond_with(lie);
            most = most.max(watch_memory(each).await?);
        }
    }
    let garbled = fake_registry.requests() - asked;
    fake_registry.respond_with(FakeResponse::PassThrough);
    load.run_for(setting.warm_up()).await;
    let until = load.elapsed();
    let call_log = load.finish().await?;
    drop(askers);

    let mut outcome =
        ScenarioOutcome::of(format!("{garbled} answers of garbage, {ASKERS} watches besides"), &call_log);
    let gaps = testbed.replicas.iter().flat_map(|r| call_log.gaps(&r.id, from..until, DROPPED));
    outcome.at_most("dropped endpoints", gaps.count(), 0, "consul/resolver.rs: the last good set");
    let failed = outcome.failed_idempotent + outcome.failed_other;
    outcome.at_most("failed calls", failed, 0, "consul/resolver.rs: the last good set");
    outcome.at_most("panics", panics.load(Relaxed), 0, "standard error says where");
    let grown = most.saturating_sub(before) >> 20;
    outcome.at_most(
        "MiB of memory more than before",
        grown,
        MEMORY >> 20,
        "consul/http.rs: the most of a body",
    );
    Ok(outcome)
}

/// Counts panics from now on, beside what is done about them anyway.
fn count_panics() -> Arc<AtomicUsize> {
    let panics = Arc::new(AtomicUsize::new(0));
    let (counting, told) = (panics.clone(), take_hook());
    set_hook(Box::new(move |panic| {
        counting.fetch_add(1, Relaxed);
        told(panic);
    }));
    panics
}

/// The most memory that this process holds during `time`, in bytes.
async fn watch_memory(time: Duration) -> Result<usize> {
    let until = Instant::now() + time;
    let mut ticks = interval(Duration::from_millis(10));
    let mut most = 0;
    while Instant::now() < until {
        ticks.tick().await;
        most = most.max(resident()?);
    }
    Ok(most)
}

fn resident() -> Result<usize> {
    let status = fs::read_to_string("/proc/self/status").context("the system does not tell the memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kilobytes: usize = line.trim().trim_end_matches(" kB").parse().context("no number")?;
    Ok(kilobytes << 10)
}

/// A true entry of the registry's, as JSON.
async fn entry(testbed: &Testbed) -> Result<String> {
    let entries = testbed.consul.health(SERVICE, &HealthQuery::default()).await?;
    let entry = entries.first().context("nobody is registered")?;
    let (id, port) = (&entry.service.id, entry.service.port);
    Ok(format!(
        r#"{{"Node":{{"Node":"n","Address":"127.0.0.1","Datacenter":"dc1"}},"Service":{{"ID":"{id}","Service":"{SERVICE}","Address":"127.0.0.1","Port":{port},"Weights":{{"Passing":1,"Warning":1}}}},"Checks":[]}}"#
    ))
}

fn garbage(entry: &str) -> Vec<FakeResponse> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Consul-Index: 99\r\nX-Consul-Knownleader: true\r\nX-Consul-Lastcontact: 0\r\nConnection: close\r\n\r\n";
    let json = |body: &str| FakeResponse::Bytes(format!("{head}{body}").into_bytes().into());
    let port = |port: &str| {
        let (before, after) = entry.split_once("\"Port\":").unwrap_or((entry, ""));
        let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
        json(&format!("[{before}\"Port\":{port}{after}]"))
    };
    let bytes = |text: &str| text.as_bytes().to_vec().into();
    vec![
        FakeResponse::http(
            "200 OK",
            "Content-Type: text/html\r\n",
            "<html><body>Sign in to the network</body></html>",
        ),
        json(&format!("[{}", &entry[..entry.len() / 2])),
        FakeResponse::http("500 Internal Server Error", "", "rpc error making call: EOF"),
        port("0"),
        port("70000"),
        port("-1"),
        port("\"eighty\""),
        json(&format!("[{entry},{entry},{entry}]")),
        json("{}"),
        json("null"),
        json("[null, 7, \"x\"]"),
        json(&"[".repeat(50_000)),
        FakeResponse::Bytes(bytes("HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n[")),
        FakeResponse::Bytes(bytes("SSH-2.0-OpenSSH_9.2\r\n")),
        FakeResponse::Bytes(bytes("")),
        FakeResponse::http("301 Moved Permanently", "Location: http://127.0.0.1:1/\r\n", ""),
        FakeResponse::Long(bytes(&format!("{head}[")), bytes(&format!("{entry},")), 100_000, bytes("null]")),
        FakeResponse::Long(bytes(head), bytes(&" ".repeat(1 << 16)), usize::MAX, bytes("")),
    ]
}
