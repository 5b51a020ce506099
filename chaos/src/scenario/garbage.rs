//! R16: the registry responds with garbage.

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
    setting::ScenarioSetting,
    testbed::{FakeRegistry, FakeResponse, RegistryKind, SERVICE, Testbed},
    verdict::ScenarioOutcome,
};

/// The limit on memory growth in bytes.
const MAX_MEMORY_GROWTH: usize = 64 << 20;
/// The number of garbage responses.
const GARBAGE_RESPONSES: usize = 200;
/// The number of watches besides the load's, so that there are enough requests.
const WATCHES: usize = 20;
/// The shortest gap without a call that counts as a dropped endpoint.
const MIN_DROPPED_GAP: Duration = Duration::from_secs(1);

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let mutations = setting.sized(40, GARBAGE_RESPONSES, 2 * GARBAGE_RESPONSES);
    let each = Duration::from_millis(setting.sized(300, 1500, 1500));
    let panics = count_panics();
    let testbed = Testbed::start(&setting, RegistryKind::Dev, 3).await?;
    let fake_registry = FakeRegistry::in_front_of(testbed.registry.address()).await?;
    let watches: Vec<_> = (0..WATCHES)
        .map(|_| Ok(ConsulResolver::new(fake_registry.client()?).resolve(&SERVICE.parse()?)))
        .collect::<Result<_>>()?;
    let mesh = setting.mesh(fake_registry.client()?, setting.channel_config())?;
    let load = Load::start(mesh.channel(SERVICE), Mix::Both)?;
    load.run_for(setting.warm_up()).await;
    let (from, requests_before, before) = (load.elapsed(), fake_registry.requests(), resident_memory()?);
    let mut max_memory = before;
    let entry = entry(&testbed).await?;
    // Every kind at least once.
    while fake_registry.requests() - requests_before < mutations {
        for fake_response in garbage(&entry) {
            fake_registry.respond_with(fake_response);
            max_memory = max_memory.max(watch_memory(each).await?);
        }
    }
    let garbage_count = fake_registry.requests() - requests_before;
    fake_registry.respond_with(FakeResponse::PassThrough);
    load.run_for(setting.warm_up()).await;
    let until = load.elapsed();
    let call_log = load.finish().await?;
    drop(watches);

    let mut outcome = ScenarioOutcome::of(
        format!("{garbage_count} answers of garbage, {WATCHES} watches besides"),
        &call_log,
    );
    let gaps = testbed.replicas.iter().flat_map(|r| call_log.gaps(&r.id, from..until, MIN_DROPPED_GAP));
    outcome.at_most("dropped endpoints", gaps.count(), 0, "consul/resolver.rs: the last good set");
    let failed = outcome.failed_idempotent + outcome.failed_other;
    outcome.at_most("failed calls", failed, 0, "consul/resolver.rs: the last good set");
    outcome.at_most("panics", panics.load(Relaxed), 0, "standard error says where");
    let grown = max_memory.saturating_sub(before) >> 20;
    outcome.at_most(
        "MiB of memory more than before",
        grown,
        MAX_MEMORY_GROWTH >> 20,
        "consul/http.rs: the body limit",
    );
    Ok(outcome)
}

/// Counts panics from now on, in addition to the present hook.
fn count_panics() -> Arc<AtomicUsize> {
    let panics = Arc::new(AtomicUsize::new(0));
    let (counter, previous_hook) = (panics.clone(), take_hook());
    set_hook(Box::new(move |panic| {
        counter.fetch_add(1, Relaxed);
        previous_hook(panic);
    }));
    panics
}

/// The largest memory of this process during `time`, in bytes.
async fn watch_memory(time: Duration) -> Result<usize> {
    let until = Instant::now() + time;
    let mut ticks = interval(Duration::from_millis(10));
    let mut max_memory = 0;
    while Instant::now() < until {
        ticks.tick().await;
        max_memory = max_memory.max(resident_memory()?);
    }
    Ok(max_memory)
}

fn resident_memory() -> Result<usize> {
    let status = fs::read_to_string("/proc/self/status").context("could not read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kilobytes: usize = line.trim().trim_end_matches(" kB").parse().context("no number")?;
    Ok(kilobytes << 10)
}

/// A valid entry of the registry as JSON.
async fn entry(testbed: &Testbed) -> Result<String> {
    let entries = testbed.consul.health(SERVICE, &HealthQuery::default()).await?;
    let entry = entries.first().context("no instance is registered")?;
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
