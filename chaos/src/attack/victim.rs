//! A client that calls a hostile server, and a normal one beside it, on one
//! mesh.

use std::{net::SocketAddr, ops::Range, time::Duration};

use anyhow::{Context, Result};
use clap::Args;
use registry_client::{
    Channel, ChannelConfig, Mesh,
    instance::{Address, Instance, ServiceName},
    resolve::{Resolution, Resolver},
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, interval, sleep, timeout},
};
use tonic::Request;

use crate::{
    load::{CallLog, DEADLINE, Load, Mix},
    mechanism::{NEVER, TIMEOUTS},
    process_stats::memory,
    proto::{ReadRequest, target_service_client::TargetServiceClient},
    terminal::print_line,
};

/// A client of a hostile server and of another.
#[derive(Clone, Debug, Args)]
pub(crate) struct VictimArgs {
    /// The address of the hostile server.
    #[arg(long)]
    pub(crate) hostile: SocketAddr,
    /// The address of the other server.
    #[arg(long)]
    pub(crate) neighbour: SocketAddr,
    /// The time for which only the other server is called.
    #[arg(long, value_parser = registry_client::parse_duration)]
    pub(crate) quiet: Duration,
    /// The time for which both are called.
    #[arg(long, value_parser = registry_client::parse_duration)]
    pub(crate) time: Duration,
    /// The mechanism that is switched off.
    #[arg(long, value_name = "MECHANISM")]
    pub(crate) without: Option<String>,
}

/// The service whose server is hostile, and the other.
const HOSTILE_SERVICE: &str = "hostile";
const NEIGHBOUR_SERVICE: &str = "neighbour";
/// The number of concurrent callers of the hostile server; each holds up to 4
/// MiB of an unfinished response.
const HOSTILE_CALLERS: usize = 8;
/// The delay between two calls of a caller.
const CALL_DELAY: Duration = Duration::from_millis(5);
const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);
/// The time of the neighbour's first calls, which are not counted.
const WARM_UP: Duration = Duration::from_millis(300);

/// The measurements of a victim.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct VictimReport {
    /// The p99 of the neighbour's calls before and during the attack.
    pub(crate) quiet_us: u64,
    pub(crate) p99_us: u64,
    /// The neighbour's calls during the attack, and those that failed or were
    /// retried.
    pub(crate) calls: usize,
    pub(crate) failed: usize,
    /// The memory before, and the largest during the attack, in KiB.
    pub(crate) before_kib: usize,
    pub(crate) max_kib: usize,
    /// The calls to the hostile server, and the longest.
    pub(crate) hostile_calls: usize,
    pub(crate) longest_ms: u64,
}

/// A resolver with one instance for each of the two services.
struct TwoServiceResolver {
    hostile: watch::Sender<Resolution>,
    neighbour: watch::Sender<Resolution>,
}

impl Resolver for TwoServiceResolver {
    fn resolve(&self, service: &ServiceName) -> watch::Receiver<Resolution> {
        let sender = if service.as_str() == HOSTILE_SERVICE { &self.hostile } else { &self.neighbour };
        sender.subscribe()
    }
}

/// Calls both servers and prints the measurements.
///
/// # Errors
/// When the calls cannot be made or the report cannot be written.
pub(crate) async fn run(args: VictimArgs) -> Result<()> {
    let at = |address| {
        let instance = Instance::new("only", Address::from(address));
        watch::Sender::new(Resolution::found(vec![instance]))
    };
    let resolver = TwoServiceResolver { hostile: at(args.hostile), neighbour: at(args.neighbour) };
    let mut config = ChannelConfig::default();
    // The hostile server is called again after every failure.
    config.outlier = None;
    if args.without.as_deref() == Some(TIMEOUTS) {
        (config.connect_timeout, config.keepalive_time, config.keepalive_timeout) = (NEVER, NEVER, NEVER);
    }
    let mesh = Mesh::builder().resolver(resolver).channel_config(config).build()?;
    let load = Load::start(mesh.channel(NEIGHBOUR_SERVICE), Mix::Both)?;
    load.run_for(args.quiet).await;
    let own = rustix::process::getpid();
    let (before, from) = (memory(own)?, load.elapsed());
    let mut max_memory = before;
    let watch = async {
        let mut ticks = interval(SAMPLE_INTERVAL);
        loop {
            ticks.tick().await;
            max_memory = max_memory.max(memory(own).unwrap_or(0));
        }
    };
    let hostile = mesh.channel(HOSTILE_SERVICE);
    let (hostile_calls, longest) = tokio::select! {
        counted = call(&hostile, args.time) => counted,
        () = watch => Default::default(),
    };
    let time = from..load.elapsed();
    let call_log = load.finish().await?;
    let mut report = report(&call_log, time);
    (report.before_kib, report.max_kib) = (before, max_memory);
    (report.hostile_calls, report.longest_ms) = (hostile_calls, longest.as_millis() as u64);
    print_line(format_args!(
        "victim {}",
        serde_json::to_string(&report).context("could not write the report")?
    ));
    Ok(())
}

fn report(call_log: &CallLog, time: Range<Duration>) -> VictimReport {
    let (quiet, calls) = (call_log.due(WARM_UP..time.start), call_log.due(time));
    let retried = calls.filter(|call| call.failure.is_none() && call.attempts.len() > 1).calls();
    let p99 = |calls: &CallLog| calls.percentile(0.99).as_micros() as u64;
    VictimReport {
        quiet_us: p99(&quiet),
        p99_us: p99(&calls),
        calls: calls.calls(),
        failed: calls.failed(true) + calls.failed(false) + retried,
        ..VictimReport::default()
    }
}

/// Calls the hostile server for `time`; returns the number of calls and the
/// longest duration.
async fn call(channel: &Channel, time: Duration) -> (usize, Duration) {
    let began = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..HOSTILE_CALLERS {
        let mut client = TargetServiceClient::new(channel.clone());
        callers.spawn(async move {
            let (mut calls, mut longest) = (0, Duration::ZERO);
            while began.elapsed() < time {
                let mut request = Request::new(ReadRequest::default());
                request.set_timeout(DEADLINE);
                let counted = Instant::now();
                // A call that outlives its deadline by far is measured too.
                let _ = timeout(5 * DEADLINE, client.read(request)).await;
                calls += 1;
                longest = longest.max(counted.elapsed());
                sleep(CALL_DELAY).await;
            }
            (calls, longest)
        });
    }
    let all = callers.join_all().await;
    (
        all.iter().map(|(calls, _)| calls).sum(),
        all.iter().map(|(_, longest)| *longest).max().unwrap_or_default(),
    )
}
