//! Who calls a hostile server, and a well one beside it, on one mesh.

use std::{ops::Range, time::Duration};

use anyhow::{Context, Result};
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
    cli::VictimArgs,
    load::{CallLog, DEADLINE, Load, Mix},
    print_line,
    proto::{ReadRequest, target_service_client::TargetServiceClient},
    testbed::{NEVER, TIMEOUTS, memory},
};

/// The service whose server is hostile, and the other.
const HOSTILE: &str = "hostile";
const NEIGHBOUR: &str = "neighbour";
/// How many callers the hostile server has at a time: what they hold of
/// unfinished answers, up to 4 MiB each, is their own.
const CALLERS: usize = 8;
/// How long a caller waits before its next call.
const CALL_DELAY: Duration = Duration::from_millis(5);
const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);
/// The time of the neighbour's first calls, which count for nothing.
const WARM_UP: Duration = Duration::from_millis(300);

/// What a victim has seen.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct VictimReport {
    /// The p99 of the neighbour's calls before and meanwhile.
    pub(crate) quiet_us: u64,
    pub(crate) p99_us: u64,
    /// The neighbour's calls meanwhile, and those that failed or were sent again.
    pub(crate) calls: usize,
    pub(crate) failed: usize,
    /// The memory before and the most meanwhile, in KiB.
    pub(crate) before_kib: usize,
    pub(crate) most_kib: usize,
    /// Calls of the hostile server, and the longest.
    pub(crate) hostile_calls: usize,
    pub(crate) longest_ms: u64,
}

/// Has either service at its one address.
struct Two {
    hostile: watch::Sender<Resolution>,
    neighbour: watch::Sender<Resolution>,
}

impl Resolver for Two {
    fn resolve(&self, service: &ServiceName) -> watch::Receiver<Resolution> {
        let of = if service.as_str() == HOSTILE { &self.hostile } else { &self.neighbour };
        of.subscribe()
    }
}

/// Calls, and tells what came of it.
///
/// # Errors
/// When the calls cannot be made or the report not be written.
pub(crate) async fn run(args: VictimArgs) -> Result<()> {
    let at = |address| {
        let instance = Instance::new("only", Address::from(address));
        watch::Sender::new(Resolution::found(vec![instance]))
    };
    let resolver = Two { hostile: at(args.hostile), neighbour: at(args.neighbour) };
    let mut config = ChannelConfig::default();
    // Called again however it fails.
    config.outlier = None;
    if args.without.as_deref() == Some(TIMEOUTS) {
        (config.connect_timeout, config.keepalive_time, config.keepalive_timeout) = (NEVER, NEVER, NEVER);
    }
    let mesh = Mesh::builder().resolver(resolver).channel_config(config).build()?;
    let load = Load::start(mesh.channel(NEIGHBOUR), Mix::Both)?;
    load.run_for(args.quiet).await;
    let own = rustix::process::getpid();
    let (before, from) = (memory(own)?, load.elapsed());
    let mut most = before;
    let watch = async {
        let mut ticks = interval(SAMPLE_INTERVAL);
        loop {
            ticks.tick().await;
            most = most.max(memory(own).unwrap_or(0));
        }
    };
    let hostile = mesh.channel(HOSTILE);
    let (hostile_calls, longest) = tokio::select! {
        called = call(&hostile, args.time) => called,
        () = watch => Default::default(),
    };
    let time = from..load.elapsed();
    let call_log = load.finish().await?;
    let mut suffered = suffered(&call_log, time);
    (suffered.before_kib, suffered.most_kib) = (before, most);
    (suffered.hostile_calls, suffered.longest_ms) = (hostile_calls, longest.as_millis() as u64);
    print_line(format_args!(
        "suffered {}",
        serde_json::to_string(&suffered).context("could not write the report")?
    ));
    Ok(())
}

fn suffered(call_log: &CallLog, time: Range<Duration>) -> VictimReport {
    let (quiet, calls) = (call_log.due(WARM_UP..time.start), call_log.due(time));
    let again = calls.filter(|call| call.failure.is_none() && call.attempts.len() > 1).calls();
    let p99 = |calls: &CallLog| calls.percentile(0.99).as_micros() as u64;
    VictimReport {
        quiet_us: p99(&quiet),
        p99_us: p99(&calls),
        calls: calls.calls(),
        failed: calls.failed(true) + calls.failed(false) + again,
        ..VictimReport::default()
    }
}

/// Calls the hostile server for `time`, whatever comes of it; how many calls
/// there were, and how long the longest took.
async fn call(channel: &Channel, time: Duration) -> (usize, Duration) {
    let began = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let mut client = TargetServiceClient::new(channel.clone());
        callers.spawn(async move {
            let (mut calls, mut longest) = (0, Duration::ZERO);
            while began.elapsed() < time {
                let mut request = Request::new(ReadRequest::default());
                request.set_timeout(DEADLINE);
                let called = Instant::now();
                // One that outlives its deadline by far is seen all the same.
                let _ = timeout(5 * DEADLINE, client.read(request)).await;
                calls += 1;
                longest = longest.max(called.elapsed());
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
