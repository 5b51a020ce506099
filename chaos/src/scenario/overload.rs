//! R11: three times as many calls as a server can serve.
//!
//! What refusing costs, beside what serving costs, is processor time of the same
//! server, so it says the same on a busy machine. Rates do not; they are judged in
//! the longer sizes only, each side on a core of its own.

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
    bed::{
        ADMISSION, Place, Replica, SERVICE, Setting, cores, memory, ports,
        shop::{Plan, Service, Shop},
    },
    cli::Size,
    load::{Flood, ratio},
    proto::{DESCRIPTORS, ReadRequest, target_service_client::TargetServiceClient},
    say,
    verdict::Outcome,
};

/// The part of what serving costs that refusing may.
const REFUSAL_COST: f64 = 0.5;
/// How many of them are made at a time.
const CALLERS: usize = 8;
/// How many calls the full server has under way.
const PLACES: usize = 16;
/// How long these are held, which is longer than anything here takes.
const HELD: Duration = Duration::from_secs(300);
/// What any other may take.
const LIMIT: Duration = Duration::from_secs(10);
/// The part of its calls that a channel may still send to who refuses all.
const STILL_SENT: f64 = 0.2;

/// The products of the page that is asked for: serving it takes the server ten times as long as
/// asking for it takes the generator.
const PRODUCTS: usize = 30;

/// How the peak is measured.
const PEAK_CALLERS: usize = 64;
const PEAK_TIME: Duration = Duration::from_secs(3);
/// By how much the peak after a flood may differ from that before it.
const STEADY: f64 = 0.15;

const SERVER_CORE: usize = 0;
const GENERATOR_CORE: usize = 1;
/// How many times what can be served is asked for.
const TIMES: f64 = 3.0;
const GOODPUT: f64 = 0.8;
const WORST_SECOND: f64 = 0.6;
const REFUSED_WITHIN: Duration = Duration::from_millis(20);
const MEMORY_TIMES: f64 = 2.0;

pub(super) async fn run(setting: Setting) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    costs(&setting, &mut outcome).await?;
    if setting.size > Size::Quick {
        rates(&setting, &mut outcome).await?;
    }
    Ok(outcome)
}

/// What refusing costs, and how many calls are still sent to who refuses all.
async fn costs(setting: &Setting, outcome: &mut Outcome) -> Result<()> {
    let calls = setting.sized(3_000, 10_000, 20_000);
    let place = Place { listen: ports::free()?, through: Vec::new() };
    let places = PLACES.to_string();
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
    server.behave("hang").await?;
    let _held = fill(setting, &eager).await?;
    // Without admission each of them takes as long as it may.
    let calls_of_full = if setting.lacks(ADMISSION) { CALLERS } else { calls };
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
        REFUSAL_COST,
        "server/admission.rs: reject",
    );
    outcome.below("calls sent to who refuses all", ratio(sent, calls), STILL_SENT, "policy/throttle.rs");
    Ok(())
}

/// Makes so many calls, eight at a time; how many ended as `wanted`, and the
/// processor time that the server took for all.
async fn cost(
    channel: &Channel,
    server: Pid,
    calls: usize,
    wanted: fn(&Result<(), Status>) -> bool,
) -> Result<(usize, Duration)> {
    let before = cores::used(Some(server))?;
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let channel = channel.clone();
        callers.spawn(async move {
            let mut counted = 0;
            for _ in 0..calls / CALLERS {
                counted += usize::from(wanted(&read(channel.clone(), LIMIT).await));
            }
            counted
        });
    }
    let counted = callers.join_all().await.iter().sum();
    Ok((counted, cores::used(Some(server))?.saturating_sub(before)))
}

async fn read(channel: Channel, limit: Duration) -> Result<(), Status> {
    let mut request = Request::new(ReadRequest::default());
    request.set_timeout(limit);
    TargetServiceClient::new(channel).read(request).await.map(drop)
}

fn is_refused(ended: &Result<(), Status>) -> bool {
    ended.as_ref().is_err_and(|status| status.code() == Code::ResourceExhausted)
}

/// Takes every place of the server with calls that do not end.
async fn fill(setting: &Setting, channel: &Channel) -> Result<JoinSet<Result<(), Status>>> {
    let mut held = JoinSet::new();
    for _ in 0..2 * PLACES {
        let channel = channel.clone();
        held.spawn(async move { read(channel, HELD).await });
    }
    // Without admission there is room for all of them.
    if !setting.lacks(ADMISSION) {
        let refused = timeout(LIMIT, held.join_next()).await;
        refused.context("the server refuses nothing")?;
    }
    Ok(held)
}

/// How much gets done of three times what can be.
async fn rates(setting: &Setting, outcome: &mut Outcome) -> Result<()> {
    let time = Duration::from_secs(setting.sized(5, 20, 60));
    let mut plan = Plan::new(setting);
    for service in Service::ALL {
        plan = plan.replicas(service, usize::from(service == Service::Product));
    }
    if setting.lacks(ADMISSION) {
        plan = plan.env(Service::Product, "CONSORT_ADMISSION", "off");
    }
    let mut shop = Shop::start(plan).await?;
    for n in 0..PRODUCTS {
        shop.sell(&format!("tea-{n}"), 250, 1_000).await?;
    }
    let (_, product) = shop.replicas.first().context("no product-service")?;
    let server = product.process()?;
    cores::pin(Some(server), SERVER_CORE)?;
    cores::pin(None, GENERATOR_CORE)?;

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
    // The first calls find nothing warm.
    Flood::capacity(pages(channel(false)?), CALLERS, PEAK_TIME).await;
    for (callers, is_judged) in [("callers that hold back", true), ("callers that do not", false)] {
        let before = memory(server)?;
        let (flood, peak, most, cost) = steadily(&channel, is_judged, time, server).await?;
        if is_judged {
            outcome.fault += &format!(
                "; {TIMES} times the {peak:.0} calls a second that product-service can serve, for {} s",
                time.as_secs()
            );
            judge(&flood, peak, outcome);
            let grown = ratio(most, before);
            outcome.below("memory, times that before", grown, MEMORY_TIMES, "server/admission.rs");
        }
        say(format_args!(
            "    {callers}: {}; memory {} → {} MiB; the generator used {:.2} of its core",
            text(&flood, peak),
            before >> 10,
            most >> 10,
            cost
        ));
        if let Some(status) = flood.failure {
            say(format_args!("      {:?}: {}", status.code(), status.message()));
        }
    }
    Ok(())
}

/// Floods the server; repeats it, three times at the most, when the machine was not
/// as fast after it as before it, for then a rate says nothing.
async fn steadily(
    channel: &impl Fn(bool) -> Result<Channel>,
    throttled: bool,
    time: Duration,
    server: Pid,
) -> Result<(Flood, f64, usize, f64)> {
    let mut peak = Flood::capacity(pages(channel(false)?), PEAK_CALLERS, PEAK_TIME).await;
    for _ in 0..3 {
        let (flood, most, cost) = flooded(channel(throttled)?, peak, time, server).await?;
        let after = Flood::capacity(pages(channel(false)?), PEAK_CALLERS, PEAK_TIME).await;
        if (after / peak - 1.0).abs() <= STEADY {
            return Ok((flood, f64::midpoint(peak, after), most, cost));
        }
        say(format_args!(
            "    not counted: the server served {peak:.0} calls a second before it, {after:.0} after it"
        ));
        peak = after;
    }
    bail!("the machine's speed is not steady enough for a rate to say something")
}

/// Calls for a page of products.
fn pages(
    channel: Channel,
) -> impl Fn() -> futures_util::future::BoxFuture<'static, Result<(), Status>> + Clone + Send + Sync {
    let client = ProductServiceClient::new(channel);
    move || {
        let mut client = client.clone();
        Box::pin(async move { client.list_products(ListProductsRequest::default()).await.map(drop) })
    }
}

/// Floods the server; what was seen, the most memory that it had in KiB, and the
/// part of a core that the generator used.
async fn flooded(channel: Channel, peak: f64, time: Duration, server: Pid) -> Result<(Flood, usize, f64)> {
    let used = cores::used(None)?;
    let mut most = 0;
    let watch = async {
        let mut ticks = interval(Duration::from_millis(250));
        loop {
            ticks.tick().await;
            most = most.max(memory(server).unwrap_or(0));
        }
    };
    let flood = tokio::select! {
        flood = Flood::of(pages(channel), peak * TIMES, time) => flood,
        () = watch => Flood::default(),
    };
    let cost = cores::used(None)?.saturating_sub(used).as_secs_f64() / time.as_secs_f64();
    Ok((flood, most, cost))
}

fn judge(flood: &Flood, peak: f64, outcome: &mut Outcome) {
    let all = flood.all();
    outcome.calls +=
        usize::try_from(all.served + all.refused + all.throttled + all.expired).unwrap_or(usize::MAX);
    let goodput = all.served as f64 / flood.seconds.len().max(1) as f64 / peak;
    outcome.above(
        "goodput, as part of the peak's",
        goodput,
        GOODPUT,
        "server/admission.rs; policy/throttle.rs",
    );
    let worst = worst(flood) / peak;
    outcome.above("goodput of the worst second", worst, WORST_SECOND, "server/admission/gradient.rs");
    let refused = Some(flood.refused_within(0.99));
    outcome.within("rejections, p99", refused, REFUSED_WITHIN, "server/connection.rs: begin");
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
