//! R11: three times as many calls as a server can serve.
//!
//! The costs of a rejection and of a served call are processor times of the same
//! server, so their ratio is the same on a busy machine. Rates are not; they are
//! evaluated in the longer sizes only, each side on a core of its own.

use std::time::Duration;

use anyhow::{Context, Result};
use mesh_proto::shop::cart::v1::{GetCartRequest, cart_service_client::CartServiceClient};
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
        plan = plan.replicas(service, usize::from(service == Service::Cart));
    }
    if setting.is_disabled(ADMISSION) {
        plan = plan.env(Service::Cart, "CONSORT_ADMISSION", "off");
    }
    let shop = Shop::start(plan).await?;
    let (_, cart) = shop.replicas.first().context("no cart-service")?;
    let server = cart.process()?;
    process_stats::pin(Some(server), SERVER_CORE)?;
    process_stats::pin(None, GENERATOR_CORE)?;

    let channel = |throttled: bool| {
        let mut config = setting.channel_config();
        config.outlier = None;
        if !throttled {
            config.service_config.throttle = None;
        }
        let mesh = Mesh::builder().resolver(FixedResolver::new([cart.listen])).channel_config(config);
        anyhow::Ok(mesh.descriptors(mesh_proto::FILE_DESCRIPTOR_SET).build()?.channel(Service::Cart.name()))
    };
    let mut peak = 0.0_f64;
    for callers in [8, 32, 64, 64] {
        peak = peak.max(Flood::capacity(carts(channel(false)?), callers, Duration::from_secs(3)).await);
    }
    let before = memory(server)?;
    print_line(format_args!(
        "    cart-service on a core of its own serves {peak:.0} calls a second, in {} MiB",
        before >> 10
    ));
    outcome.fault += &format!(
        "; {LOAD_FACTOR} times the {peak:.0} calls a second that cart-service can serve, for {} s",
        time.as_secs()
    );
    for (who, throttled) in [("callers that hold back", true), ("callers that do not", false)] {
        let (flood, most, cost) = flooded(channel(throttled)?, peak, time, server).await?;
        evaluate(who, throttled, &flood, peak, outcome);
        if throttled {
            let grown = ratio(most, before);
            outcome.below("memory, times that before", grown, MAX_MEMORY_FACTOR, "server/admission.rs");
        }
        print_line(format_args!(
            "    {who}: {}; memory {} MiB; the generator used {:.2} of its core",
            text(&flood, peak),
            most >> 10,
            cost
        ));
    }
    Ok(())
}

/// Returns a function that reads the cart of a random customer.
fn carts(
    channel: Channel,
) -> impl Fn() -> futures_util::future::BoxFuture<'static, Result<(), Status>> + Clone + Send + Sync {
    let client = CartServiceClient::new(channel);
    move || {
        let mut client = client.clone();
        let customer_id = format!("customer-{}", fastrand::u16(..));
        Box::pin(async move { client.get_cart(GetCartRequest { customer_id }).await.map(drop) })
    }
}

/// Floods the server; returns the outcomes, the server's largest memory in KiB,
/// and the share of a core that the generator used.
async fn flooded(channel: Channel, peak: f64, time: Duration, server: Pid) -> Result<(Flood, usize, f64)> {
    let used = process_stats::time_used(None)?;
    let mut most = 0;
    let watch = async {
        let mut ticks = interval(Duration::from_millis(250));
        loop {
            ticks.tick().await;
            most = most.max(memory(server).unwrap_or(0));
        }
    };
    let flood = tokio::select! {
        flood = Flood::of(carts(channel), peak * LOAD_FACTOR, time) => flood,
        () = watch => Flood::default(),
    };
    let cost = process_stats::time_used(None)?.saturating_sub(used).as_secs_f64() / time.as_secs_f64();
    Ok((flood, most, cost))
}

fn evaluate(who: &str, run_and_evaluate: bool, flood: &Flood, peak: f64, outcome: &mut ScenarioOutcome) {
    let all = flood.all();
    outcome.calls +=
        usize::try_from(all.served + all.refused + all.throttled + all.expired).unwrap_or(usize::MAX);
    let _ = who;
    if !run_and_evaluate {
        return;
    }
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
