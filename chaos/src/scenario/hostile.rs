//! R29: one peer attacks a server while another calls it.

use std::{net::SocketAddr, ops::Range, time::Duration};

use anyhow::{Context, Result};
use registry_client::{
    Channel, ChannelConfig, Mesh, policy::budget::BudgetConfig, resolve::fixed::FixedResolver,
};
use serde_json::Value;
use tokio::time::{Instant, interval, sleep, timeout};
use tonic::{Request, transport::Endpoint};

use crate::{
    attack::{Attack, Report, all},
    cli::Size,
    load::{CallLog, Load, Mix},
    print_line,
    proto::{ReadRequest, target_service_client::TargetServiceClient},
    testbed::{
        LaunchSpec, Replica, SERVICE, ScenarioSetting,
        child::{ChildProcess, this_program},
        memory, ports,
    },
    verdict::ScenarioOutcome,
};

/// By how many MiB memory may grow.
pub(super) const MEMORY: usize = 64;
/// How many times the quiet p99 the neighbour's may be.
pub(super) const SLOWER: u32 = 2;
/// Below it a p99 says more of the machine than of what was called: on two cores, a
/// call is handed over between threads six times, each of which may wait for a core
/// while two others have their slice of 4 ms.
pub(super) const FLOOR: Duration = Duration::from_millis(50);
/// How long a socket may stay that says nothing.
pub(super) const MUTE: Duration = Duration::from_secs(15);
/// How long after an attack something may still be held.
const FREE: Duration = Duration::from_secs(5);
/// The time of the neighbour's first calls, which count for nothing.
const WARM_UP: Duration = Duration::from_millis(300);
/// How often memory is looked at, and a newcomer calls.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
/// How long an attacker may take to end above its time.
const END_TIMEOUT: Duration = Duration::from_secs(30);

/// What one attack did to a server.
struct Attacked {
    report: Report,
    /// When it was, on the load's time line.
    time: Range<Duration>,
    /// The memory before, and the most during the attack, in KiB.
    memory: (usize, usize),
    /// New connections that the neighbour could not call on, of how many.
    newcomers: (usize, usize),
    /// After how long nothing was held any more.
    free: Option<Duration>,
}

/// What a server holds for its peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    connections: u64,
    streams: u64,
    bytes: u64,
    in_progress: u64,
}

impl Held {
    async fn by(server: &mut Replica) -> Result<Self> {
        let state = server.state().await?;
        let number = |name: &str| state[name].as_u64().with_context(|| format!("no {name} in {state}"));
        let methods = state["admission"].as_array().into_iter().flatten();
        Ok(Self {
            connections: number("connections")?,
            streams: number("streams")?,
            bytes: number("buffered_bytes")?,
            in_progress: methods.filter_map(|method: &Value| method["in_progress"].as_u64()).sum(),
        })
    }

    /// Whether it is no more than the neighbour's, who has calls under way.
    fn is_as_quiet_as(&self, quiet: &Self) -> bool {
        self.connections <= quiet.connections + 2
            && self.streams <= quiet.streams + 2
            && self.in_progress <= quiet.in_progress + 2
            && self.bytes == 0
    }
}

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let attacks = if setting.attacks.is_empty() { all().collect() } else { setting.attacks.clone() };
    let mut outcome = ScenarioOutcome {
        fault: format!("{} attacks, each on a new server", attacks.len()),
        ..ScenarioOutcome::default()
    };
    // Among a machine's other tests, a second.
    let floor = setting.sized(Duration::from_secs(1), FLOOR, FLOOR);
    for attack in attacks {
        let mut part = run_and_evaluate(&setting, attack, floor).await?;
        if setting.size == Size::Quick && !part.held() {
            // Among a machine's other tests, once more: what is wrong is so twice.
            part = run_and_evaluate(&setting, attack, floor).await?;
        }
        outcome.add(attack.name, part);
    }
    Ok(outcome)
}

async fn run_and_evaluate(
    setting: &ScenarioSetting,
    attack: &Attack,
    floor: Duration,
) -> Result<ScenarioOutcome> {
    let (call_log, attacked) = one(setting, attack).await?;
    print_line(format_args!("    {:<33} {}", attack.name, attacked.text(&call_log)));
    Ok(evaluate(&call_log, &attacked, attack, floor))
}

/// Runs one attack on a server of its own, and waits until that holds nothing
/// of it.
async fn one(setting: &ScenarioSetting, attack: &Attack) -> Result<(CallLog, Attacked)> {
    let name = attack.name.replace([' ', ','], "-");
    let place = LaunchSpec { listen: ports::free()?, wrapper: Vec::new() };
    let mut server = Replica::start(&name, SERVICE, place, None, &["--work", "1ms"], setting)?;
    let (to, pid) = (server.listen, server.process()?);
    up(to).await?;
    let load = Load::start(neighbour(to)?, Mix::Both)?;
    load.run_for(Duration::from_millis(setting.sized(800, 3_000, 5_000))).await;
    let (quiet, before, from) = (Held::by(&mut server).await?, memory(pid)?, load.elapsed());
    let time = if attack.is_mute { MUTE } else { Duration::from_millis(setting.sized(800, 3_000, 40_000)) };
    let (target, millis) = (to.to_string(), format!("{}ms", time.as_millis()));
    let words = this_program(&["attack", attack.name, "--target", &target, "--time", &millis])?;
    let mut attacker = ChildProcess::start(&format!("{name}-attack"), &words, &setting.logs)?;
    let (mut most, mut newcomers) = (before, (0, 0));
    let watch = async {
        let mut ticks = interval(SAMPLE_INTERVAL);
        loop {
            ticks.tick().await;
            most = most.max(memory(pid).unwrap_or(0));
            newcomers.1 += 1;
            newcomers.0 += usize::from(newcomer(to).await.is_err());
        }
    };
    let report = tokio::select! {
        report = timeout(time + END_TIMEOUT, attacker.wait_for_line("attacked ")) => report.context("the attack does not end")??,
        () = watch => String::new(),
    };
    attacker.wait_exit(END_TIMEOUT).await?;
    let time = from..load.elapsed();
    let free = until_free(&mut server, &quiet).await?;
    let call_log = load.finish().await?;
    let report = serde_json::from_str(&report).context("a report that cannot be read")?;
    Ok((call_log, Attacked { report, time, memory: (before, most), newcomers, free }))
}

/// Waits until the server takes calls.
pub(super) async fn up(to: SocketAddr) -> Result<()> {
    let began = Instant::now();
    while let Err(why) = newcomer(to).await {
        if began.elapsed() > END_TIMEOUT {
            return Err(why.context("the server does not come up"));
        }
        sleep(SAMPLE_INTERVAL / 4).await;
    }
    Ok(())
}

/// The neighbour's channel, which sends nothing twice: what is refused has
/// failed.
fn neighbour(to: SocketAddr) -> Result<Channel> {
    let mut config = ChannelConfig::default();
    config.outlier = None;
    config.service_config.budget = BudgetConfig::Share { ratio: 0.0, min_per_second: 0 };
    let resolver = FixedResolver::new([to]);
    Ok(Mesh::builder().resolver(resolver).channel_config(config).build()?.channel(SERVICE))
}

/// How long it takes until the server holds no more than before.
async fn until_free(server: &mut Replica, quiet: &Held) -> Result<Option<Duration>> {
    let began = Instant::now();
    while began.elapsed() < 2 * FREE {
        if Held::by(server).await?.is_as_quiet_as(quiet) {
            return Ok(Some(began.elapsed()));
        }
        sleep(SAMPLE_INTERVAL / 4).await;
    }
    let held = Held::by(server).await?;
    print_line(format_args!("    still held: {held:?}, and {quiet:?} before"));
    Ok(None)
}

/// One call on a connection of its own, as Consul's check makes it.
async fn newcomer(to: SocketAddr) -> Result<()> {
    let call = async {
        let channel = Endpoint::new(format!("http://{to}"))?.connect().await?;
        TargetServiceClient::new(channel).read(Request::new(ReadRequest::default())).await?;
        Ok(())
    };
    timeout(Duration::from_secs(2), call).await?
}

impl Attacked {
    /// By how many MiB the server has grown.
    fn grown(&self) -> usize {
        self.memory.1.saturating_sub(self.memory.0) >> 10
    }

    /// What the neighbour called before it, and meanwhile.
    fn calls(&self, call_log: &CallLog) -> (CallLog, CallLog) {
        (call_log.due(WARM_UP..self.time.start), call_log.due(self.time.clone()))
    }

    fn text(&self, call_log: &CallLog) -> String {
        let Report { opened, closed, sent, took_ms, .. } = self.report;
        let (before, meanwhile) = self.calls(call_log);
        let p99 = |calls: &CallLog| calls.percentile(0.99).as_millis();
        format!(
            "+{:>3} MiB; p99 {} ms, quiet {} ms; {} of {} calls failed; opened {opened}, closed {closed}, sent {} KiB \
             in {took_ms} ms",
            self.grown(),
            p99(&meanwhile),
            p99(&before),
            meanwhile.failed(true) + meanwhile.failed(false),
            meanwhile.calls(),
            sent >> 10,
        )
    }
}

fn evaluate(call_log: &CallLog, attacked: &Attacked, attack: &Attack, floor: Duration) -> ScenarioOutcome {
    let (before, calls) = attacked.calls(call_log);
    let mut outcome = ScenarioOutcome::of("", call_log);
    outcome.recovered(attacked.free);
    let again = calls.filter(|call| call.failure.is_none() && call.attempts.len() > 1).calls();
    let failed = calls.failed(true) + calls.failed(false) + again;
    outcome.at_most("calls failed or sent again", failed, 0, "server/peers.rs");
    outcome.at_most("new connections failed", attacked.newcomers.0, 0, "server/accept.rs; server/peers.rs");
    let most = (before.percentile(0.99) * SLOWER).max(floor);
    let p99 = Some(calls.percentile(0.99));
    outcome.within("p99", p99, most, "server/peers/turns.rs: what is ready before another peer's");
    outcome.at_most("MiB more memory", attacked.grown(), MEMORY, "server/peers.rs: what is not counted");
    if attack.is_mute {
        let closed = Duration::from_millis(attacked.report.took_ms);
        let closed = Some(closed).filter(|_| attacked.report.is_over);
        outcome.within("sockets closed", closed, MUTE, "server/socket.rs: the wait for the preface");
    }
    outcome.within("nothing held", attacked.free, FREE, "server/connection/exchange.rs");
    outcome
}
