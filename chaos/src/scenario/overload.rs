//! R11: three times as many calls as a server can serve.
//!
//! The costs of a rejection and of a served call are processor times of the same
//! server, so their ratio is the same on a busy machine. Rates are not; they are
//! evaluated in the longer sizes only, each side on a core of its own.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use mesh_proto::shop::product::v1::{ListProductsRequest, product_service_client::ProductServiceClient};
use registry_client::{Channel, Mesh, resolve::fixed::FixedResolver};
use rustix::process::Pid;
use tokio::{
    task::JoinSet,
    time::{interval, timeout},
};
use tonic::{Code, Request, Status};

use super::hostile::up;
use crate::{
    load::{Flood, ratio},
    mechanism::ADMISSION,
    process_stats::{self, memory},
    proto::{DESCRIPTORS, ReadRequest, target_service_client::TargetServiceClient},
    setting::{ScenarioSetting, Size},
    terminal::print_line,
    testbed::{
        LaunchSpec, Replica, SERVICE, ports,
        shop::{Plan, Service, Shop},
    },
    verdict::ScenarioOutcome,
};

/// The limit on the cost of a rejection as a share of that of a served call.
const MAX_REJECTION_COST: f64 = 0.5;
/// The number of concurrent callers.
const CALLERS: usize = 8;
/// The number of calls in flight on the full server.
const SERVER_CONCURRENCY: usize = 16;
/// The deadline of the calls that fill the server; longer than the scenario.
const HELD_CALL_DEADLINE: Duration = Duration::from_secs(300);
/// The deadline of all other calls.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// The limit on the share of calls that a throttled channel sends to a server
/// that rejects all.
const MAX_SENT_SHARE: f64 = 0.2;

/// The number of products on the requested page. Serving the page costs ten times as much as
/// requesting it.
const PRODUCT_COUNT: usize = 30;

/// The callers and the time of a measurement of the peak.
const PEAK_CALLERS: usize = 64;
const PEAK_TIME: Duration = Duration::from_secs(3);
/// The limit on the relative change of the peak from before a flood to after
/// it.
const MAX_PEAK_DRIFT: f64 = 0.15;

const SERVER_CORE: usize = 0;
const GENERATOR_CORE: usize = 1;
/// The load as a multiple of the peak rate.
const LOAD_FACTOR: f64 = 3.0;
const MIN_GOODPUT: f64 = 0.8;
const MIN_WORST_SECOND: f64 = 0.6;
const MAX_REJECTION_P99: Duration = Duration::from_millis(20);
const MAX_MEMORY_FACTOR: f64 = 2.0;

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let mut outcome = ScenarioOutcome::default();
    costs(&setting, &mut outcome).await?;
    if setting.size > Size::Quick {
        rates(&setting, &mut outcome).await?;
    }
    Ok(outcome)
}

/// Measures the cost of a rejection, and the calls that a throttled channel
/// sends to a server that rejects all.
async fn costs(setting: &ScenarioSetting, outcome: &mut ScenarioOutcome) -> Result<()> {
    let calls = setting.sized(3_000, 10_000, 20_000);
    let place = LaunchSpec { listen: ports::free()?, wrapper: Vec::new() };
    let places = SERVER_CONCURRENCY.to_string();
    let args = ["--work", "0s", "--max-concurrency", &places];
    let mut server = Replica::start("full", SERVICE, place, None, &args, setting)?;
    let process = server.process()?;
    up(server.listen).await?;
    let direct = || Mesh::builder().resolver(FixedResolver::new([server.listen])).descriptors(DESCRIPTORS);
    let mut config = setting.channel_config();
    config.outlier = None;
    let restrained = direct().channel_config(config.clone()).build()?.channel(SERVICE);
    config.service_config.throttle = None;
    let eager = direct().channel_config(config).build()?.channel(SERVICE);

    let (served, serving) = cost(&eager, process, calls, |ended| ended.is_ok()).await?;
    server.set_behaviour("hang").await?;
    let _held = fill(setting, &eager).await?;
    // Without admission each call takes until its deadline.
    let calls_of_full = if setting.is_disabled(ADMISSION) { CALLERS } else { calls };
    let (refused, refusing) = cost(&eager, process, calls_of_full, is_refused).await?;
    cost(&restrained, process, calls_of_full, is_refused).await?;
    let counters = restrained.counters().context("a broken channel")?;
    let sent = usize::try_from(counters.attempts.get())?;

    outcome.fault =
        format!("{calls} calls served, and {calls} refused by a server that has all that it takes");
    outcome.calls += 3 * calls;
    outcome.figure(
        "calls served, then refused",
        format!("{served}, {refused}"),
        format!("{calls}, {calls}"),
        (served, refused) == (calls, calls),
        "server/admission.rs",
    );
    let cost = refusing.as_secs_f64() / serving.as_secs_f64().max(1e-3);
    outcome.below(
        "processor time of refusing, as part of that of serving",
        cost,
        MAX_REJECTION_COST,
        "server/admission.rs: reject",
    );
    outcome.below("calls sent to who refuses all", ratio(sent, calls), MAX_SENT_SHARE, "policy/throttle.rs");
    Ok(())
}

/// Makes so many calls, eight at a time; returns the number of expected results,
/// and the processor time of the server.
async fn cost(
    channel: &Channel,
    server: Pid,
    calls: usize,
    is_expected: fn(&Result<(), Status>) -> bool,
) -> Result<(usize, Duration)> {
    let before = process_stats::time_used(Some(server))?;
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let channel = channel.clone();
        callers.spawn(async move {
            let mut counted = 0;
            for _ in 0..calls / CALLERS {
                counted += usize::from(is_expected(&read(channel.clone(), CALL_DEADLINE).await));
            }
            counted
        });
    }
    let counted = callers.join_all().await.iter().sum();
    Ok((counted, process_stats::time_used(Some(server))?.saturating_sub(before)))
}

async fn read(channel: Channel, limit: Duration) -> Result<(), Status> {
    let mut request = Request::new(ReadRequest::default());
    request.set_timeout(limit);
    TargetServiceClient::new(channel).read(request).await.map(drop)
}

fn is_refused(ended: &Result<(), Status>) -> bool {
    ended.as_ref().is_err_and(|status| status.code() == Code::ResourceExhausted)
}

/// Fills the server up to its limit with calls that do not end.
async fn fill(setting: &ScenarioSetting, channel: &Channel) -> Result<JoinSet<Result<(), Status>>> {
    let mut held = JoinSet::new();
    for _ in 0..2 * SERVER_CONCURRENCY {
        let channel = channel.clone();
        held.spawn(async move { read(channel, HELD_CALL_DEADLINE).await });
    }
    // Without admission all of them are accepted.
    if !setting.is_disabled(ADMISSION) {
        let refused = timeout(CALL_DEADLINE, held.join_next()).await;
        refused.context("the server rejects nothing")?;
    }
    Ok(held)
}

/// Measures goodput at three times the peak rate.
async fn rates(setting: &ScenarioSetting, outcome: &mut ScenarioOutcome) -> Result<()> {
    let time = Duration::from_secs(setting.sized(5, 20, 60));
    let mut plan = Plan::new(setting);
    for service in Service::ALL {
        plan = plan.replicas(service, usize::from(service == Service::Product));
    }
    if setting.is_disabled(ADMISSION) {
        plan = plan.env(Service::Product, "CONSORT_ADMISSION", "off");
    }
    let mut shop = Shop::start(plan).await?;
    for n in 0..PRODUCT_COUNT {
        shop.add_product(&format!("tea-{n}"), 250, 1_000).await?;
    }
    let (_, product) = shop.replicas.first().context("no product-service")?;
    let server = product.process()?;
    process_stats::pin(Some(server), SERVER_CORE)?;
    process_stats::pin(None, GENERATOR_CORE)?;

    let channel = |throttled: bool| {
        let mut config = setting.channel_config();
        config.outlier = None;
        if !throttled {
            config.service_config.throttle = None;
        }
        let mesh = Mesh::builder().resolver(FixedResolver::new([product.listen])).channel_config(config);
        anyhow::Ok(
            mesh.descriptors(mesh_proto::FILE_DESCRIPTOR_SET).build()?.channel(Service::Product.name()),
        )
    };
    // Warms up the server.
    Flood::capacity(page_calls(channel(false)?), CALLERS, PEAK_TIME).await;
    for (callers, is_evaluated) in [("callers that hold back", true), ("callers that do not", false)] {
        let before = memory(server)?;
        let (flood, peak, peak_memory, cost) =
            flood_at_steady_speed(&channel, is_evaluated, time, server).await?;
        if is_evaluated {
            outcome.fault += &format!(
                "; {LOAD_FACTOR} times the {peak:.0} calls a second that product-service can serve, for {} s",
                time.as_secs()
            );
            evaluate(&flood, peak, outcome);
            let grown = ratio(peak_memory, before);
            outcome.below("memory, times that before", grown, MAX_MEMORY_FACTOR, "server/admission.rs");
        }
        print_line(format_args!(
            "    {callers}: {}; memory {} → {} MiB; the generator used {:.2} of its core",
            text(&flood, peak),
            before >> 10,
            peak_memory >> 10,
            cost
        ));
        if let Some(status) = flood.failure {
            print_line(format_args!("      {:?}: {}", status.code(), status.message()));
        }
    }
    Ok(())
}

/// Floods the server. A flood is repeated, at most three times, when the machine's
/// speed changed meanwhile, because the rate is not comparable then.
async fn flood_at_steady_speed(
    channel: &impl Fn(bool) -> Result<Channel>,
    throttled: bool,
    time: Duration,
    server: Pid,
) -> Result<(Flood, f64, usize, f64)> {
    let mut peak = Flood::capacity(page_calls(channel(false)?), PEAK_CALLERS, PEAK_TIME).await;
    for _ in 0..3 {
        let (flood, peak_memory, cost) = flooded(channel(throttled)?, peak, time, server).await?;
        let after = Flood::capacity(page_calls(channel(false)?), PEAK_CALLERS, PEAK_TIME).await;
        if (after / peak - 1.0).abs() <= MAX_PEAK_DRIFT {
            return Ok((flood, f64::midpoint(peak, after), peak_memory, cost));
        }
        print_line(format_args!(
            "    not counted: the server served {peak:.0} calls a second before it, {after:.0} after it"
        ));
        peak = after;
    }
    bail!("the machine's speed changed during each of three floods; run it on a quiet machine")
}

/// Returns a function that reads a page of products.
fn page_calls(
    channel: Channel,
) -> impl Fn() -> futures_util::future::BoxFuture<'static, Result<(), Status>> + Clone + Send + Sync {
    let client = ProductServiceClient::new(channel);
    move || {
        let mut client = client.clone();
        Box::pin(async move { client.list_products(ListProductsRequest::default()).await.map(drop) })
    }
}

/// Floods the server; returns the outcomes, the server's largest memory in KiB,
/// and the share of a core that the generator used.
async fn flooded(channel: Channel, peak: f64, time: Duration, server: Pid) -> Result<(Flood, usize, f64)> {
    let used = process_stats::time_used(None)?;
    let mut peak_memory = 0;
    let watch = async {
        let mut ticks = interval(Duration::from_millis(250));
        loop {
            ticks.tick().await;
            peak_memory = peak_memory.max(memory(server).unwrap_or(0));
        }
    };
    let flood = tokio::select! {
        flood = Flood::of(page_calls(channel), peak * LOAD_FACTOR, time) => flood,
        () = watch => Flood::default(),
    };
    let cost = process_stats::time_used(None)?.saturating_sub(used).as_secs_f64() / time.as_secs_f64();
    Ok((flood, peak_memory, cost))
}

fn evaluate(flood: &Flood, peak: f64, outcome: &mut ScenarioOutcome) {
    let all = flood.all();
    outcome.calls +=
        usize::try_from(all.served + all.refused + all.throttled + all.expired).unwrap_or(usize::MAX);
    let goodput = all.served as f64 / flood.seconds.len().max(1) as f64 / peak;
    outcome.above(
        "goodput, as part of the peak's",
        goodput,
        MIN_GOODPUT,
        "server/admission.rs; policy/throttle.rs",
    );
    let worst = worst(flood) / peak;
    outcome.above("goodput of the worst second", worst, MIN_WORST_SECOND, "server/admission/gradient.rs");
    let refused = Some(flood.refused_within(0.99));
    outcome.within("rejections, p99", refused, MAX_REJECTION_P99, "server/connection.rs: begin");
}

fn worst(flood: &Flood) -> f64 {
    flood.seconds.iter().map(|second| second.served).min().unwrap_or(0) as f64
}

fn text(flood: &Flood, peak: f64) -> String {
    let all = flood.all();
    let seconds = flood.seconds.len().max(1) as f64;
    format!(
        "goodput {:.0} % of the peak, worst second {:.0} %; {} served, {} refused within {:.1} ms (p99), {} not sent, {} expired, {} failed, {} not begun",
        100.0 * all.served as f64 / seconds / peak,
        100.0 * worst(flood) / peak,
        all.served,
        all.refused,
        flood.refused_within(0.99).as_secs_f64() * 1e3,
        all.throttled,
        all.expired,
        all.failed,
        flood.unsent,
    )
}
