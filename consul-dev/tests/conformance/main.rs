//! One set of cases for the development agent and for a real Consul: both must give the same
//! responses.
//!
//! `CONSUL_BIN` names the Consul to compare with; else `consul` on `PATH` or the one that `cargo xtask setup` keeps.
//! Without any the real half fails. Every case uses names of its own, so cases run side by side; those that count
//! connections or compare indexes of the whole catalog run alone, after the others.

#![allow(clippy::unwrap_used, reason = "a failed case may panic anywhere, its message is what is reported")]
#![allow(clippy::print_stdout, reason = "the run prints the agents and versions that it tested")]

mod agents;
mod cases;
mod http;
mod pattern;

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use futures_util::{FutureExt, StreamExt, stream};

use agents::{RealConsul, Target};
use cases::Case;

/// The number of concurrent cases; each holds a few connections of the 200 that an agent
/// allows.
const AT_ONCE: usize = 12;

#[tokio::test(flavor = "multi_thread")]
async fn every_case_holds_on_the_development_agent() {
    let options = consul_dev::Options::default().node_name("conformance");
    let agent = consul_dev::Agent::bind(([127, 0, 0, 1], 0).into(), options).await.expect("no free port");
    let target = Target::new(agent.url(), "consul-dev").await;
    run(&target).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_case_holds_on_a_real_consul() {
    let consul = RealConsul::start().await;
    run(&Target::new(consul.url(), &consul.description()).await).await;
}

async fn run(target: &Target) {
    let started = Instant::now();
    let (together, alone): (Vec<Case>, Vec<Case>) = cases::all().into_iter().partition(|case| !case.alone);
    let (mut failed, mut passed, mut other) = (Vec::new(), 0, Vec::new());
    let outcomes = stream::iter(together).map(|case| check(case, target)).buffer_unordered(AT_ONCE);
    let outcomes = outcomes.chain(stream::iter(alone).then(|case| check(case, target)));
    for (name, outcome) in outcomes.collect::<Vec<_>>().await {
        match outcome {
            CaseOutcome::Passed => passed += 1,
            CaseOutcome::Different(reason) => other.push(format!("{name}: {reason}")),
            CaseOutcome::Failed(why) => failed.push(format!("{name}: {why}")),
        }
    }
    println!(
        "conformance: {passed} cases held on {} in {:.1} s, {} known to differ there, {} failed",
        target.description,
        started.elapsed().as_secs_f64(),
        other.len(),
        failed.len()
    );
    for line in &other {
        println!("  differs  {line}");
    }
    assert!(failed.is_empty(), "on {}:\n  {}", target.description, failed.join("\n  "));
}

enum CaseOutcome {
    Passed,
    /// The case is of a newer Consul.
    Different(String),
    Failed(String),
}

async fn check(case: Case, target: &Target) -> (&'static str, CaseOutcome) {
    if let Some((since, reason)) = case.since
        && target.version < since
    {
        let (major, minor, patch) = since;
        return (case.name, CaseOutcome::Different(format!("{reason} (from {major}.{minor}.{patch})")));
    }
    // A failed assertion unwinds to here; its message is the failure's text.
    let ran = AssertUnwindSafe((case.run)(target.clone())).catch_unwind().await;
    let outcome = match ran {
        Ok(()) => CaseOutcome::Passed,
        Err(panic) => CaseOutcome::Failed(
            panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_else(|| "panicked".to_owned()),
        ),
    };
    (case.name, outcome)
}
