//! R18: what an agent forgets, or somebody else removes, is registered again.

use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;

use super::lies::unguarded;
use crate::{
    bed::{Bed, Kind, Setting},
    load::{Load, Mix},
    verdict::Outcome,
};

/// How long an instance may take to pass again.
const PASSING: Duration = Duration::from_secs(2);
/// How long it may take to be registered again.
const REGISTERED: Duration = Duration::from_secs(5);
/// By how much an agent that does not answer may hold up a shutdown.
const BLOCKED: Duration = Duration::from_secs(2);
/// How long each is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn run(setting: Setting) -> Result<Outcome> {
    let guarded = !setting.lacks("registration loop");
    let mut bed = Bed::start(&setting, Kind::Consul, if guarded { 3 } else { 0 }).await?;
    if !guarded {
        unguarded(&mut bed).await?;
    }
    let load = Load::start(bed.channel()?, Mix::Both)?;
    load.go_on(setting.warm_up()).await;

    let stopped = bed.replicas[0].stop().await?;
    bed.replicas[0].begin()?;
    bed.until_listed(3, PATIENCE).await;

    let victim = bed.replicas[0].id.to_string();
    bed.consul.deregister(&victim).await?;
    let [_, foreign] = bed.until_listed(3, PATIENCE).await;
    load.go_on(setting.warm_up()).await;

    bed.registry.kill().await?;
    bed.registry.begin().await?;
    let [_, restarted] = bed.until_listed(3, PATIENCE).await;
    load.go_on(setting.warm_up()).await;

    bed.registry.kill().await?;
    bed.registry.wipe()?;
    bed.registry.begin().await?;
    let [wiped, wiped_passing] = bed.until_listed(3, PATIENCE).await;
    load.go_on(setting.warm_up()).await;

    // Hung is worse than gone: whatever is sent to it is taken, and never answered.
    bed.registry.child()?.signal(Signal::STOP)?;
    let hung = bed.replicas[1].stop().await?;
    bed.registry.child()?.signal(Signal::CONT)?;
    bed.registry.kill().await?;
    let gone = bed.replicas[2].stop().await?;
    let seen = load.finish().await?;

    let mut outcome =
        Outcome::of("a real Consul restarted, wiped, hung, gone; a foreign deregistration", &seen);
    outcome.recovered(foreign.max(restarted).max(wiped_passing));
    let look = "consul/registration/reconcile.rs";
    outcome.within("passing again after a foreign deregistration", foreign, PASSING, look);
    outcome.within("passing again after the agent's restart", restarted, PASSING, look);
    outcome.within("registered again after the agent was wiped", wiped, REGISTERED, look);
    let most = stopped + BLOCKED;
    outcome.within("shutdown while the agent hangs", Some(hung), most, "server/registration.rs");
    outcome.within("shutdown while the agent is gone", Some(gone), most, "server/registration.rs");
    let failed = outcome.failed_idempotent + outcome.failed_other;
    outcome.at_most("failed calls", failed, 0, "channel/pool.rs: unlisted instances; server.rs: the drain");
    Ok(outcome)
}
