//! R29b: hostile servers, and a client that calls each of them beside a normal
//! one.

use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use tokio::time::timeout;

use crate::{
    attack::{AttackReport, HOSTILE_SERVERS, HostileServer, VictimReport},
    scenario::hostile::{MAX_MEMORY_GROWTH_MIB, MAX_MUTE_TIME, MAX_P99_FACTOR, MIN_P99_LIMIT},
    setting::{ScenarioSetting, Size},
    terminal::print_line,
    testbed::{
        LaunchSpec, Replica, SERVICE,
        child::{ChildProcess, this_program},
        ports,
    },
    verdict::ScenarioOutcome,
};

/// The time for which a mute server is called: longer than a channel may keep
/// its connection.
const MUTE_CALL_TIME: Duration = Duration::from_secs(16);
/// The limit on a process's end after its time.
const END_TIMEOUT: Duration = Duration::from_secs(30);
/// The limit on a call with a deadline of a second.
const MAX_OVERRUN: Duration = Duration::from_millis(1_500);

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let mut outcome = ScenarioOutcome {
        fault: format!("{} hostile servers", HOSTILE_SERVERS.len()),
        ..ScenarioOutcome::default()
    };
    let place = LaunchSpec { listen: ports::free()?, wrapper: Vec::new() };
    let neighbour = Replica::start("neighbour", SERVICE, place, None, &["--work", "1ms"], &setting)?;
    super::hostile::up(neighbour.listen).await?;
    // Mute servers use no resources, so all run at the same time.
    let (mute, others): (Vec<_>, Vec<_>) = HOSTILE_SERVERS.iter().partition(|server| server.is_mute);
    let parts =
        try_join_all(mute.iter().map(|server| run_and_evaluate(&setting, server, &neighbour))).await?;
    let mut parts: Vec<_> = mute.into_iter().zip(parts).collect();
    for server in others {
        let mut part = run_and_evaluate(&setting, server, &neighbour).await?;
        if setting.size == Size::Quick && !part.held() {
            // Other tests run on this machine, so a miss is repeated once.
            part = run_and_evaluate(&setting, server, &neighbour).await?;
        }
        parts.push((server, part));
    }
    for (server, part) in parts {
        outcome.add(server.name, part);
    }
    Ok(outcome)
}

async fn run_and_evaluate(
    setting: &ScenarioSetting,
    server: &HostileServer,
    neighbour: &Replica,
) -> Result<ScenarioOutcome> {
    let (report, victim_report) = one(setting, server, neighbour).await?;
    print_line(format_args!("    {:<36} {}", server.name, text(&report, &victim_report)));
    Ok(evaluate(&report, &victim_report, server, setting))
}

async fn one(
    setting: &ScenarioSetting,
    server: &HostileServer,
    neighbour: &Replica,
) -> Result<(AttackReport, VictimReport)> {
    let name = server.name.replace([' ', ',', '/', '\''], "-");
    let quiet = Duration::from_millis(setting.sized(500, 2_000, 5_000));
    let attack_time = Duration::from_millis(setting.sized(500, 2_000, 20_000));
    let time = if server.is_mute { MUTE_CALL_TIME } else { attack_time };
    let listen = ports::free()?.to_string();
    let millis = |time: Duration| format!("{}ms", time.as_millis());
    let whole = millis(quiet + time + END_TIMEOUT);
    let words = this_program(&["hostile-server", server.name, "--listen", &listen, "--time", &whole])?;
    let mut hostile = ChildProcess::start(&format!("{name}-server"), &words, &setting.logs)?;
    hostile.wait_for_line("listens").await?;
    let (neighbour_address, quiet, length) = (neighbour.listen.to_string(), millis(quiet), millis(time));
    let mut words = vec!["victim", "--hostile", &listen, "--neighbour", &neighbour_address];
    words.extend(["--quiet", &quiet, "--time", &length]);
    words.extend(setting.without.into_iter().flat_map(|without| ["--without", without]));
    let mut victim = ChildProcess::start(&name, &this_program(&words)?, &setting.logs)?;
    let victim_report = timeout(time + END_TIMEOUT, victim.wait_for_line("victim ")).await;
    let victim_report =
        victim_report.with_context(|| format!("the client of `{}` does not end", server.name))??;
    hostile.send_line("report").await?;
    let report = hostile.wait_for_line("attacked ").await?;
    victim.wait_exit(END_TIMEOUT).await?;
    hostile.wait_exit(END_TIMEOUT).await?;
    let unread = "could not parse a report";
    Ok((
        serde_json::from_str(&report).context(unread)?,
        serde_json::from_str(&victim_report).context(unread)?,
    ))
}

fn grown(victim_report: &VictimReport) -> usize {
    victim_report.max_kib.saturating_sub(victim_report.before_kib) >> 10
}

fn text(report: &AttackReport, victim_report: &VictimReport) -> String {
    let VictimReport { quiet_us, p99_us, calls, failed, hostile_calls, longest_ms, .. } = victim_report;
    format!(
        "+{:>3} MiB; p99 {:.1} ms, quiet {:.1} ms; {failed} of {calls} calls failed; called {hostile_calls} times, \
         longest {longest_ms} ms; {} connections, longest {} ms; sent {} KiB",
        grown(victim_report),
        *p99_us as f64 / 1e3,
        *quiet_us as f64 / 1e3,
        report.opened,
        report.longest_ms,
        report.sent >> 10,
    )
}

fn evaluate(
    report: &AttackReport,
    victim_report: &VictimReport,
    server: &HostileServer,
    setting: &ScenarioSetting,
) -> ScenarioOutcome {
    let mut outcome = ScenarioOutcome { calls: victim_report.calls, ..ScenarioOutcome::default() };
    outcome.at_most("calls failed or sent again", victim_report.failed, 0, "channel/pool.rs");
    let p99 = Some(Duration::from_micros(victim_report.p99_us));
    let max = (Duration::from_micros(victim_report.quiet_us) * MAX_P99_FACTOR).max(MIN_P99_LIMIT);
    let max = if setting.size == Size::Quick { max.max(Duration::from_secs(1)) } else { max };
    outcome.within("p99", p99, max, "channel/keepalive/received.rs");
    outcome.at_most(
        "MiB more memory",
        grown(victim_report),
        MAX_MEMORY_GROWTH_MIB,
        "channel/connection.rs: the windows",
    );
    let longest = Some(Duration::from_millis(victim_report.longest_ms));
    let late = setting.sized(2 * MAX_OVERRUN, MAX_OVERRUN, MAX_OVERRUN);
    outcome.within("longest call of it", longest, late, "channel/call/deadline.rs");
    if server.is_mute {
        let longest = Some(Duration::from_millis(report.longest_ms)).filter(|_| report.opened > 0);
        outcome.within(
            "sockets closed",
            longest,
            MAX_MUTE_TIME,
            "channel/connection.rs: the wait for an answer",
        );
    }
    outcome
}
