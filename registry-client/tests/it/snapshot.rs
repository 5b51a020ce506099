//! A process that starts while its registry is down, or after the registry
//! lost its memory.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use registry_client::{
    ChannelConfig, Mesh,
    consul::{CheckSpec, CheckStatus, Client, ServiceSpec},
};
use tempfile::TempDir;
use tonic::Code;

use crate::{
    consul::agents::{TestAgent, eventually},
    log::Log,
    mesh::echo,
    server::{Running, within},
};

fn mesh(client: Client, dir: &Path) -> Mesh {
    let mut config = ChannelConfig::default();
    config.deadline = Duration::from_secs(5);
    Mesh::builder().consul(client).channel_config(config).state_dir(dir).build().unwrap()
}

async fn register(agent: &TestAgent, server: &Running) {
    let mut spec = ServiceSpec::new("test".parse().unwrap(), server.address.into(), CheckSpec::ttl());
    spec.check = CheckSpec::Ttl { ttl: Duration::from_secs(300), initial: CheckStatus::Passing };
    agent.client().register(&spec).await.unwrap();
}

fn file(dir: &TempDir) -> PathBuf {
    dir.path().join("snapshots/test.json")
}

/// A server, and the snapshot of a process that has called it and ended.
async fn snapshot_saved_at(agent: &TestAgent) -> (Running, TempDir) {
    let server = Running::start(|_| {}).await;
    register(agent, &server).await;
    let dir = tempfile::tempdir().unwrap();
    let before = mesh(agent.client(), dir.path());
    assert_eq!(echo(before.channel("test")).await.unwrap(), "hello");
    eventually("it is saved", || async { file(&dir).exists() }).await;
    (server, dir)
}

#[tokio::test]
async fn a_process_that_starts_without_its_registry_calls_whom_it_remembers_and_says_so() {
    let mut agent = TestAgent::development().await;
    let (server, dir) = snapshot_saved_at(&agent).await;
    agent.stop().await;

    let (log, _guard) = Log::begin();
    let after = mesh(agent.client(), dir.path());
    for _ in 0..100 {
        assert_eq!(echo(after.channel("test")).await.unwrap(), "hello");
    }
    let said = log.lines("of a snapshot that is");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("WARN") && said[0].contains("age_s=") && said[0].contains("old"), "{said:?}");

    agent.start().await;
    register(&agent, &server).await;
    let answered = || async { log.lines("the snapshot is no longer used").len() == 1 };
    eventually("the registry's return is published", answered).await;
    assert_eq!(echo(after.channel("test")).await.unwrap(), "hello");
}

#[tokio::test]
async fn a_process_that_starts_after_the_registry_was_wiped_keeps_calling_who_answers() {
    let mut agent = TestAgent::development().await;
    let (server, dir) = snapshot_saved_at(&agent).await;
    agent.stop().await;
    agent.start().await;
    assert!(agent.client().health("test", &Default::default()).await.unwrap().is_empty());

    let (log, _guard) = Log::begin();
    let after = mesh(agent.client(), dir.path());
    let channel = after.channel("test");
    let calls = async {
        while log.lines("the snapshot is no longer used").is_empty() {
            assert_eq!(echo(channel.clone()).await.unwrap(), "hello");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(calls).await;
    // The registry is believed now; the channel keeps who answers.
    for _ in 0..100 {
        assert_eq!(echo(channel.clone()).await.unwrap(), "hello");
    }
    assert!(fs::read_to_string(file(&dir)).unwrap().contains(&server.address.to_string()));
}

#[tokio::test]
async fn a_file_that_is_not_what_was_written_is_one_warning_and_the_call_says_why_it_fails() {
    let mut agent = TestAgent::development().await;
    let (_server, dir) = snapshot_saved_at(&agent).await;
    agent.stop().await;
    let good = fs::read_to_string(file(&dir)).unwrap();
    let garbage = [
        String::new(),
        "null".into(),
        "[]".into(),
        "{}".into(),
        "\u{0}\u{0}\u{0}".into(),
        "<html>It works!</html>".into(),
        "[".repeat(100_000),
        "{\"format\":".repeat(50_000),
        good[..good.len() - 1].into(),
        good[1..].into(),
        format!("{good}{good}"),
        good.replace("\"format\":1", "\"format\":99"),
        good.replace("\"format\":1", "\"format\":\"1\""),
        good.replace("\"format\":1", "\"format\":-1"),
        good.replace("\"service\":\"test\"", "\"service\":\"../test\""),
        good.replace("127.0.0.1:", "0.0.0.0:"),
        good.replace("127.0.0.1:", "127.0.0.1:-"),
        good.replace("127.0.0.1:", "127.0.0.1:9"),
        good.replace("127.0.0.1:", "http://127.0.0.1:"),
        good.replace("\"weight\":1", "\"weight\":0"),
        good.replace("\"weight\":1", "\"weight\":1e9"),
        good.replace("passing", "well"),
        good.replace("\"saved_unix_s\":", "\"saved_unix_s\":18446744073709551615,\"x\":"),
        good.replace("\"saved_unix_s\":", "\"saved_unix_s\":1,\"x\":"),
        " ".repeat(5 * 1024 * 1024),
    ];
    for (turn, text) in garbage.iter().enumerate() {
        assert_ne!(*text, good, "case {turn} changes something");
        fs::write(file(&dir), text).unwrap();
        let (log, _guard) = Log::begin();
        let mut config = ChannelConfig::default();
        config.fail_fast = true;
        let after = Mesh::builder().consul(agent.client()).state_dir(dir.path()).channel_config(config);
        let channel = after.build().unwrap().channel("test");
        let refused = async {
            loop {
                match echo(channel.clone()).await {
                    Err(refused) if refused.message().contains("cannot reach Consul") => return refused,
                    other => drop(other.expect_err("there is no instance to call")),
                }
            }
        };
        assert_eq!(within(refused).await.code(), Code::Unavailable, "case {turn}");
        let said = log.lines("is not used");
        assert_eq!(said.len(), 1, "case {turn}: {said:?}");
    }
}

#[tokio::test]
async fn two_processes_that_share_a_folder_do_each_others_file_no_harm() {
    let agent = TestAgent::development().await;
    let (server, dir) = snapshot_saved_at(&agent).await;
    let both = [mesh(agent.client(), dir.path()), mesh(agent.client(), dir.path())];
    for mesh in &both {
        assert_eq!(echo(mesh.channel("test")).await.unwrap(), "hello");
    }
    let other = Running::start(|_| {}).await;
    register(&agent, &other).await;
    let holds = |text: &str| [&server, &other].iter().all(|s| text.contains(&s.address.to_string()));
    let saved = || async { holds(&fs::read_to_string(file(&dir)).unwrap()) };
    eventually("the newcomer is saved", saved).await;
    let names: Vec<_> = fs::read_dir(dir.path().join("snapshots")).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
}
