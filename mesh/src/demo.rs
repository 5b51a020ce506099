//! `mesh demo`: one fault under load, and its effect on callers.

use std::{
    ops::Range,
    pin::pin,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use registry_client::{Channel, ChannelConfig, Mesh};
use rustix::process::Signal;
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::{
    cli::{DemoArgs, Fault},
    discover,
    dynamic::Method,
    exit::Exit,
    load::{Calls, Schedule, Template},
    method_client::MethodClient,
    services::Service,
    terminal::print_line,
    up::shutdown::Shutdown,
};

mod proxy;
mod scoreboard;
mod shop;

use proxy::NetworkFault;
use scoreboard::{Scoreboard, ScoreboardLine, Target};
use shop::{REPLICAS, Shop};

const METHOD: &str = "shop.cart.v1.CartService/GetCart";
const RATE: f64 = 200.0;
const DEADLINE: Duration = Duration::from_secs(1);
const MAX_IN_FLIGHT: u32 = 10_000;
/// The time of load before the fault.
const WARM_UP: Duration = Duration::from_secs(5);
/// The time of load after the fault.
const COOL_DOWN: Duration = Duration::from_secs(8);
/// The delay of the slow instance's responses; short enough that it does not
/// look dead.
const SLOW_DELAY: Duration = Duration::from_millis(300);
/// The limit on finding and connecting to the first instance.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The fault that was injected, on the time line of the calls.
#[derive(Debug)]
struct InjectedFault {
    /// From the fault to its end.
    time: Range<Duration>,
    /// The instance that it hit, if it was one.
    victim: Option<String>,
}

/// Starts a shop, injects the fault, and reports what callers saw.
///
/// # Errors
/// When the shop cannot be started or the fault not be injected.
pub(crate) async fn run(args: DemoArgs) -> Result<Exit> {
    let shutdown = Shutdown::on_signals()?;
    if !args.json {
        print_line(format!(
            "{} This takes about {} s.",
            description(args.fault),
            20 + fault_duration(args.fault).as_secs()
        ));
    }
    let mut shop = tokio::select! {
        shop = Shop::start(args.port_base) => shop?,
        () = shutdown.requested() => return Ok(Exit::Interrupted),
    };
    let measured = tokio::select! {
        measured = measure(&mut shop, &args) => Some(measured),
        () = shutdown.requested() => None,
    };
    shop.end().await;
    match measured {
        Some(targets) => Ok(verdict(&targets?, args.json)),
        None => Ok(Exit::Interrupted),
    }
}

/// The fault in a sentence.
fn description(fault: Fault) -> &'static str {
    match fault {
        Fault::Failover => {
            "Starts a shop, calls GetCart 200 times a second and kills one of three instances."
        }
        Fault::Freeze => {
            "Starts a shop, calls GetCart 200 times a second and lets one of three instances hang."
        }
        Fault::RegistryDown => "Starts a shop, calls GetCart 200 times a second and stops the registry.",
        Fault::Slow => {
            "Starts a shop, calls GetCart 200 times a second and makes one of four instances slow."
        }
        Fault::Rolling => "Starts a shop, calls GetCart 200 times a second and restarts all three instances.",
        Fault::Blackhole => {
            "Starts a shop, calls GetCart 200 times a second and cuts one of four instances off."
        }
    }
}

/// The longest time that the fault lasts.
fn fault_duration(fault: Fault) -> Duration {
    Duration::from_secs(match fault {
        Fault::Failover => 1,
        Fault::Freeze | Fault::Blackhole => 6,
        Fault::RegistryDown => 10,
        Fault::Slow => 12,
        Fault::Rolling => 20,
    })
}

/// Runs load and fault, prints the scoreboard, and returns each target's
/// result.
async fn measure(shop: &mut Shop, args: &DemoArgs) -> Result<Vec<Target>> {
    let extra = match args.fault {
        Fault::Slow | Fault::Blackhole => Some(shop.extra().await?),
        _ => None,
    };
    let client = MethodClient::through(channel(shop)?, Method::find(METHOD)?);
    client
        .wait_for_instance(CONNECT_TIMEOUT)
        .await
        .map_err(|status| anyhow::anyhow!("no cart-service responds: {status}"))?;
    let template = Template::new(client.method(), r#"{"customer_id":"ada"}"#)?;
    let schedule = Schedule::new(RATE, WARM_UP + fault_duration(args.fault) + COOL_DOWN);
    let mut calls = Calls::start(client, template, schedule, DEADLINE, MAX_IN_FLIGHT)?;

    let start = calls.started_at();
    let mut scoreboard = Scoreboard::default();
    let mut fault = pin!(inject(shop, args, extra, start));
    let mut injected = None;
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    seconds.tick().await;
    loop {
        tokio::select! {
            record = calls.records.recv() => match record {
                Some(record) => scoreboard.add(record),
                None => break,
            },
            _ = seconds.tick() => show(&scoreboard.line(start.elapsed().as_secs()), args.json),
            inject = &mut fault, if injected.is_none() => injected = Some(inject?),
        }
    }
    let injected = injected.context("the fault lasted longer than the load")?;
    Ok(evaluate(args.fault, &scoreboard, &injected))
}

/// The channel of the calls: it detects failures fast, as a caller with a
/// deadline of a second should.
fn channel(shop: &Shop) -> Result<Channel> {
    let mut config = ChannelConfig::default();
    config.deadline = DEADLINE;
    config.keepalive_time = Duration::from_secs(1);
    config.keepalive_timeout = Duration::from_millis(500);
    config.connect_timeout = Duration::from_secs(1);
    let mesh = Mesh::builder()
        .descriptors(mesh_proto::FILE_DESCRIPTOR_SET)
        .consul(discover::client(&shop.url())?)
        .channel_config(config)
        .build()?;
    Ok(mesh.channel(Service::Cart.name()))
}

/// Injects the fault, and ends it where that is part of the fault.
async fn inject(
    shop: &mut Shop,
    args: &DemoArgs,
    extra: Option<String>,
    start: Instant,
) -> Result<InjectedFault> {
    let announce = |what: &str| {
        if !args.json {
            print_line(format!("{:>4} s  {what}", start.elapsed().as_secs()));
        }
    };
    sleep(WARM_UP).await;
    let from = start.elapsed();
    let time = fault_duration(args.fault);
    let victim = match args.fault {
        Fault::Failover => {
            let id = shop.signal(0, Signal::KILL)?;
            announce(&format!("kill -9 {id}"));
            Some(id)
        }
        Fault::Freeze => {
            let id = shop.signal(0, Signal::STOP)?;
            announce(&format!("SIGSTOP {id}"));
            sleep(time).await;
            shop.signal(0, Signal::CONT)?;
            announce("SIGCONT");
            Some(id)
        }
        Fault::RegistryDown => {
            shop.stop_registry().await;
            announce("the registry is gone");
            sleep(time).await;
            shop.start_registry().await?;
            announce("the registry is back, and empty");
            None
        }
        Fault::Slow | Fault::Blackhole => {
            let delay = NetworkFault::Delay(SLOW_DELAY);
            let network = if args.fault == Fault::Slow { delay } else { NetworkFault::Blackhole };
            shop.proxy()?.set(network);
            announce(&format!("{network:?}: {}", extra.as_deref().unwrap_or_default()));
            sleep(time).await;
            shop.proxy()?.set(NetworkFault::None);
            announce("the network works again");
            extra
        }
        Fault::Rolling => {
            for n in 0..usize::from(REPLICAS) {
                announce(&format!("SIGTERM {}", shop.signal(n, Signal::TERM)?));
                sleep(time / u32::from(REPLICAS)).await;
            }
            None
        }
    };
    Ok(InjectedFault { time: from..start.elapsed(), victim })
}

fn evaluate(fault: Fault, scoreboard: &Scoreboard, injected: &InjectedFault) -> Vec<Target> {
    let victim = injected.victim.as_deref().unwrap_or_default();
    let seconds = Duration::from_secs;
    let mut targets = vec![scoreboard.no_failure()];
    match fault {
        Fault::Failover => {
            // `mesh up` restarts it: from the kill to its first response.
            targets.push(scoreboard.responds_again(
                "started again, it answers within 8 s",
                victim,
                injected.time.end,
                seconds(8),
            ));
        }
        Fault::Freeze => {
            let out = injected.time.start + seconds(2)..injected.time.end;
            targets.push(scoreboard.max_share("hung, it is not called after 2 s", victim, &out, 0.0));
            targets.push(scoreboard.responds_again(
                "woken, it answers within 5 s",
                victim,
                injected.time.end,
                seconds(5),
            ));
        }
        Fault::RegistryDown => {
            let all = usize::from(REPLICAS);
            targets.push(scoreboard.all_respond("every instance goes on answering", &injected.time, all));
        }
        Fault::Slow => {
            let later = injected.time.start + seconds(5)..injected.time.end;
            targets.push(scoreboard.max_share("its share is at most 10 % after 5 s", victim, &later, 0.1));
        }
        Fault::Rolling => {}
        Fault::Blackhole => {
            let late = Duration::from_millis(50);
            targets.push(scoreboard.longest_call("no call outlives its deadline by 50 ms", DEADLINE + late));
            targets.push(scoreboard.responds_again(
                "healed, it answers within 2 s",
                victim,
                injected.time.end,
                seconds(2),
            ));
        }
    }
    targets
}

fn show(line: &ScoreboardLine, json: bool) {
    if json {
        // A map of numbers and names can be written.
        return print_line(serde_json::to_string(line).unwrap_or_default());
    }
    let ScoreboardLine { t, ok, failed, attempts, by_endpoint } = line;
    let instances: Vec<_> = by_endpoint.iter().map(|(id, calls)| format!("{id} {calls}")).collect();
    print_line(format!(
        "{t:>4} s  ok {ok:>4}  failed {failed:>3}  attempts {attempts:>4}  {}",
        instances.join("  ")
    ));
}

/// The last line of `--json`.
#[derive(Serialize)]
struct Verdict<'a> {
    met: bool,
    targets: &'a [Target],
}

fn verdict(targets: &[Target], json: bool) -> Exit {
    let met = targets.iter().all(|target| target.met);
    if json {
        print_line(serde_json::json!({ "verdict": Verdict { met, targets } }).to_string());
    } else {
        for Target { target, measured, met } in targets {
            print_line(format!("{}  {target}: {measured}", if *met { "met   " } else { "MISSED" }));
        }
    }
    if met { Exit::Success } else { Exit::Failed }
}
