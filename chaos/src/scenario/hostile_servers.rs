//! R29, the other way round: hostile servers, and a client that calls each of
//! them beside a well one.

use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use tokio::time::timeout;

use crate::{
    attack::{HOSTILE, HostileServer, Report, VictimReport},
    cli::Size,
    print_line,
    scenario::hostile::{FLOOR, MEMORY, MUTE, SLOWER},
    testbed::{
        LaunchSpec, Replica, SERVICE, ScenarioSetting,
        child::{ChildProcess, this_program},
        ports,
    },
    verdict::ScenarioOutcome,
};

/// How long a mute server is called: longer than a channel may keep it.
const MUTE_TIME: Duration = Duration::from_secs(16);
/// How long a process may take above its time.
const END_TIMEOUT: Duration = Duration::from_secs(30);
/// By how much a call may outlive its deadline of a second, which the caller's
/// machine has to notice.
const LATE: Duration = Duration::from_millis(1_500);

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let mut outcome =
        ScenarioOutcome { fault: format!("{} hostile servers", HOSTILE.len()), ..ScenarioOutcome::default() };
    let place = LaunchSpec { listen: ports::free()?, wrapper: Vec::new() };
    let neighbour = Replica::start("neighbour", SERVICE, place, None, &["--work", "1ms"], &setting)?;
    super::hostile::up(neighbour.listen).await?;
    // Those that say nothing cost nothing: all at once.
    let (mute, others): (Vec<_>, Vec<_>) = HOSTILE.iter().partition(|server| server.is_mute);
    let parts =
        try_join_all(mute.iter().map(|server| run_and_evaluate(&setting, server, &neighbour))).await?;
    let mut parts: Vec<_> = mute.into_iter().zip(parts).collect();
    for server in others {
        let mut part = run_and_evaluate(&setting, server, &neighbour).await?;
        if setting.size == Size::Quick && !part.held() {
            // Among a machine's other tests, once more: what is wrong is so twice.
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
    let (report, suffered) = one(setting, server, neighbour).await?;
    print_line(format_args!("    {:<36} {}", server.name, text(&report, &suffered)));
    Ok(evaluate(&report, &suffered, server, setting))
}

async fn one(
    setting: &ScenarioSetting,
    server: &HostileServer,
    neighbour: &Replica,
) -> Result<(Report, VictimReport)> {
    let name = server.name.replace([' ', ',', '/', '\''], "-");
    let quiet = Duration::from_millis(setting.sized(500, 2_000, 5_000));
    let usual = Duration::from_millis(setting.sized(500, 2_000, 20_000));
    let time = if server.is_mute { MUTE_TIME } else { usual };
    let listen = ports::free()?.to_string();
    let millis = |time: Duration| format!("{}ms", time.as_millis());
    let whole = millis(quiet + time + END_TIMEOUT);
    let words = this_program(&["hostile-server", server.name, "--listen", &listen, "--time", &whole])?;
    let mut hostile = ChildProcess::start(&format!("{name}-server"), &words, &setting.logs)?;
    hostile.wait_for_line("listens").await?;
    let (well, quiet, length) = (neighbour.listen.to_string(), millis(quiet), millis(time));
    let mut words = vec!["victim", "--hostile", &listen, "--neighbour", &well];
    words.extend(["--quiet", &quiet, "--time", &length]);
    words.extend(setting.without.into_iter().flat_map(|without| ["--without", without]));
    let mut victim = ChildProcess::start(&name, &this_program(&words)?, &setting.logs)?;
    let suffered = timeout(time + END_TIMEOUT, victim.wait_for_line("suffered ")).await;
    let suffered = suffered.with_context(|| format!("the caller of `{}` does not end", server.name))??;
    hostile.send_line("report").await?;
    let report = hostile.wait_for_line("attacked ").await?;
    victim.wait_exit(END_TIMEOUT).await?;
    hostile.wait_exit(END_TIMEOUT).await?;
    let unread = "a report that cannot be read";
    Ok((serde_json::from_str(&report).context(unread)?, serde_json::from_str(&suffered).context(unread)?))
}

fn grown(suffered: &VictimReport) -> usize {
    suffered.most_kib.saturating_sub(suffered.before_kib) >> 10
}

fn text(report: &Report, suffered: &VictimReport) -> String {
    let VictimReport { quiet_us, p99_us, calls, failed, hostile_calls, longest_ms, .. } = suffered;
    format!(
        "+{:>3} MiB; p99 {:.1} ms, quiet {:.1} ms; {failed} of {calls} calls failed; called {hostile_calls} times, \
         longest {longest_ms} ms; {} connections, longest {} ms; sent {} KiB",
        grown(suffered),
        *p99_us as f64 / 1e3,
        *quiet_us as f64 / 1e3,
        report.opened,
        report.longest_ms,
        report.sent >> 10,
    )
}

fn evaluate(
    report: &Report,
    suffered: &VictimReport,
    server: &HostileServer,
    setting: &ScenarioSetting,
) -> ScenarioOutcome {
    let mut outcome = ScenarioOutcome { calls: suffered.calls, ..ScenarioOutcome::default() };
    outcome.at_most("calls failed or sent again", suffered.failed, 0, "channel/pool.rs");
    let p99 = Some(Duration::from_micros(suffered.p99_us));
    let most = (Duration::from_micros(suffered.quiet_us) * SLOWER).max(FLOOR);
    let most = if setting.size == Size::Quick { most.max(Duration::from_secs(1)) } else { most };
    outcome.within("p99", p99, most, "channel/keepalive/received.rs");
    outcome.at_most("MiB more memory", grown(suffered), MEMORY, "channel/connection.rs: the windows");
    let longest = Some(Duration::from_millis(suffered.longest_ms));
    let late = setting.sized(2 * LATE, LATE, LATE);
    outcome.within("longest call of it", longest, late, "channel/call/deadline.rs");
    if server.is_mute {
        let longest = Some(Duration::from_millis(report.longest_ms)).filter(|_| report.opened > 0);
        outcome.within("sockets closed", longest, MUTE, "channel/connection.rs: the wait for an answer");
    }
    outcome
}
