//! Deterministic simulation of a channel: its real pool and call code on a
//! simulated network with a simulated clock, and faults drawn from a seed.
//!
//! A promise that is broken prints its seed and how to run that seed again:
//!
//! ```text
//! CONSORT_SIM_SEED=17 cargo nextest run -p registry-client --test sim
//! ```
//!
//! `CONSORT_SIM_SEEDS=1000` tries so many seeds instead of 50.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

mod check;
mod fault;
mod load;
mod trace;
mod world;

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use fault::{Fault, Kind, Plan};
use load::Load;
use registry_client::{ChannelConfig, policy::budget::BudgetConfig};
use world::{Outcome, Scenario};

/// Seeds that once broke a promise; they always run.
///
/// 33: two instances were held within half a second, and the default budget, five
/// retries at once for so few calls, refused the sixth.
const FOUND: [u64; 1] = [33];

/// A minute of faults.
fn minute(seed: u64) -> Scenario {
    Scenario {
        seed,
        plan: Plan::draw(seed, 4),
        load: Load {
            every: Duration::from_millis(100),
            deadline: Duration::from_secs(1 + seed % 2),
            until: Duration::from_secs(60),
        },
        tick: Duration::from_millis(10),
        newcomer: None,
    }
}

fn config() -> ChannelConfig {
    let mut config = ChannelConfig::default();
    config.keepalive_time = Duration::from_secs(1);
    config.keepalive_timeout = Duration::from_millis(500);
    config.connect_timeout = Duration::from_secs(1);
    // Two faults within a second strike more of ten calls a second than the default
    // budget retries.
    config.service_config.budget = BudgetConfig::Share { ratio: 0.2, min_per_second: 10 };
    config
}

/// The seeds of the environment, to run more or a single one.
fn setting(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "a test has no other way to be configured")]
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Runs a scenario; what it broke, with all that is needed to repeat it.
fn prove(scenario: &Scenario) -> Result<Outcome, String> {
    let outcome = world::run(scenario, config());
    let broken = check::broken(scenario, &outcome);
    if broken.is_empty() {
        return Ok(outcome);
    }
    if setting("CONSORT_SIM_SEED").is_some() {
        println!("{}", outcome.trace.events().join("\n"));
    }
    let faults: Vec<_> = scenario.plan.faults.iter().map(ToString::to_string).collect();
    Err(format!(
        "seed {seed} breaks {} promises:\n{}\nfaults:\n{}\nagain, with its trace: CONSORT_SIM_SEED={seed} cargo nextest run -p registry-client --test sim whatever --no-capture\n",
        broken.len(),
        broken.iter().take(10).cloned().collect::<Vec<_>>().join("\n"),
        faults.join("\n"),
        seed = scenario.seed,
    ))
}

#[test]
fn whatever_a_minute_brings_the_promises_hold() {
    let seeds: Vec<u64> = match setting("CONSORT_SIM_SEED") {
        Some(seed) => vec![seed],
        None => FOUND.into_iter().chain(0..setting("CONSORT_SIM_SEEDS").unwrap_or(50)).collect(),
    };
    let next = AtomicUsize::new(0);
    let (calls, bound) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        let mut broken = Vec::new();
        while let Some(seed) = seeds.get(next.fetch_add(1, Relaxed)) {
            let scenario = minute(*seed);
            match prove(&scenario) {
                Ok(outcome) => {
                    let must = |call: &&load::Finished| check::must_succeed(&scenario, call);
                    calls.fetch_add(outcome.calls.len(), Relaxed);
                    bound.fetch_add(outcome.calls.iter().filter(must).count(), Relaxed);
                }
                Err(words) => broken.push(words),
            }
        }
        broken
    };
    let broken: Vec<_> = std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let working: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        working.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let (calls, bound) = (calls.into_inner(), bound.into_inner());
    println!("{} seeds, {calls} calls, {bound} of which had to succeed", seeds.len());
    assert!(broken.is_empty(), "{} of {} seeds:\n{}", broken.len(), seeds.len(), broken.join("\n"));
    // Faults that leave no instance prove nothing.
    assert!(bound * 2 > calls, "only {bound} of {calls} calls had to succeed");
}

#[test]
fn the_same_seed_brings_the_same_events() {
    for seed in [1, 2] {
        let first = world::run(&minute(seed), config()).trace;
        let again = world::run(&minute(seed), config()).trace;
        let differing = first.events().into_iter().zip(again.events()).find(|(one, other)| one != other);
        assert_eq!(differing, None, "seed {seed}: the first event that differs");
        assert_eq!(first.fingerprint(), again.fingerprint(), "seed {seed}");
        assert_ne!(first.fingerprint(), world::run(&minute(seed + 100), config()).trace.fingerprint());
    }
}

#[test]
fn an_hour_without_the_registry_drops_nobody() {
    const MINUTE: Duration = Duration::from_secs(60);
    let fault = |kind, from, lasting| Fault { kind, from, to: from + lasting };
    let back = MINUTE * 59;
    let scenario = Scenario {
        seed: 0,
        plan: Plan {
            instances: 3,
            faults: vec![
                fault(Kind::RegistryDown, MINUTE, back - MINUTE),
                fault(Kind::Crash(0), MINUTE * 20, Duration::from_secs(5)),
                fault(Kind::Partition(1), MINUTE * 40, Duration::from_secs(5)),
            ],
        },
        load: Load { every: Duration::from_secs(2), deadline: Duration::from_secs(3), until: MINUTE * 60 },
        tick: Duration::from_millis(50),
        // Listed by the registry's first response after the outage.
        newcomer: Some(back + Duration::from_millis(1)),
    };
    let outcome = prove(&scenario).unwrap_or_else(|broken| panic!("{broken}"));
    // Each of the three was used all the time, but while it was away.
    for minute in 1..59 {
        for instance in (0..3).map(world::host) {
            let during = |call: &&load::Finished| call.began.as_secs() / 60 == minute;
            let used = outcome.calls.iter().filter(during).any(|call| call.hosts.contains(&instance));
            assert!(used, "{instance} was not used in minute {minute}");
        }
    }
    for (instance, most) in [(0, 10), (1, 10), (2, 1)] {
        let dials = outcome.dials.iter().filter(|(_, host)| *host == world::host(instance)).count();
        assert!(dials <= most, "s{instance} was dialled {dials} times");
    }
}
