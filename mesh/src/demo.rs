//! `mesh demo`: what one fault does to those who call.

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
    Exit,
    cli::{DemoArgs, Fault},
    dynamic::Method,
    found,
    load::{Calls, Schedule, Template},
    out::say,
    outgoing::Outgoing,
    services::Service,
    up::stop::Stop,
};

mod board;
mod proxy;
mod shop;

use board::{Board, Line, Target};
use proxy::Weather;
use shop::{REPLICAS, Shop};

const METHOD: &str = "shop.cart.v1.CartService/GetCart";
const RATE: f64 = 200.0;
const DEADLINE: Duration = Duration::from_secs(1);
const IN_FLIGHT: u32 = 10_000;
/// When the fault begins.
const CALM: Duration = Duration::from_secs(5);
/// How long calls go on after the fault.
const AFTER: Duration = Duration::from_secs(8);
/// How late the slow one answers; less than would make it look dead.
const LATE: Duration = Duration::from_millis(300);
/// How long finding the first instance may take.
const OPENING: Duration = Duration::from_secs(10);

/// What was done, on the time line of the calls.
#[derive(Debug)]
struct Done {
    /// From the fault to its end.
    time: Range<Duration>,
    /// The instance it was done to, where it is one.
    victim: Option<String>,
}

/// Starts a shop, hurts it, and says how its callers fared.
///
/// # Errors
/// When the shop cannot be started or hurt.
pub(crate) async fn run(args: DemoArgs) -> Result<Exit> {
    let stop = Stop::on_signals()?;
    if !args.json {
        say(format!("{} This takes about {} s.", plan(args.fault), 20 + length(args.fault).as_secs()));
    }
    let mut shop = tokio::select! {
        shop = Shop::start(args.port_base) => shop?,
        () = stop.asked() => return Ok(Exit::Interrupted),
    };
    let played = tokio::select! {
        played = play(&mut shop, &args) => Some(played),
        () = stop.asked() => None,
    };
    shop.end().await;
    match played {
        Some(targets) => Ok(verdict(&targets?, args.json)),
        None => Ok(Exit::Interrupted),
    }
}

/// What will be done, in a sentence.
fn plan(fault: Fault) -> &'static str {
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

/// How long the fault lasts, at most.
fn length(fault: Fault) -> Duration {
    Duration::from_secs(match fault {
        Fault::Failover => 1,
        Fault::Freeze | Fault::Blackhole => 6,
        Fault::RegistryDown => 10,
        Fault::Slow => 12,
        Fault::Rolling => 20,
    })
}

/// Load, fault, scoreboard; what became of each target.
async fn play(shop: &mut Shop, args: &DemoArgs) -> Result<Vec<Target>> {
    let extra = match args.fault {
        Fault::Slow | Fault::Blackhole => Some(shop.extra().await?),
        _ => None,
    };
    let outgoing = Outgoing::through(channel(shop)?, Method::find(METHOD)?);
    outgoing.open(OPENING).await.map_err(|status| anyhow::anyhow!("no cart-service answers: {status}"))?;
    let template = Template::new(outgoing.method(), r#"{"customer_id":"ada"}"#)?;
    let schedule = Schedule::new(RATE, CALM + length(args.fault) + AFTER);
    let mut calls = Calls::begin(outgoing, template, schedule, DEADLINE, IN_FLIGHT)?;

    let start = calls.start();
    let mut board = Board::default();
    let mut fault = pin!(hurt(shop, args, extra, start));
    let mut done = None;
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    seconds.tick().await;
    loop {
        tokio::select! {
            record = calls.received.recv() => match record {
                Some(record) => board.add(record),
                None => break,
            },
            _ = seconds.tick() => show(&board.line(start.elapsed().as_secs()), args.json),
            hurt = &mut fault, if done.is_none() => done = Some(hurt?),
        }
    }
    let done = done.context("the fault took longer than the calls")?;
    Ok(judge(args.fault, &board, &done))
}

/// The channel of the calls: quick to notice, as a caller with a deadline of
/// a second should be.
fn channel(shop: &Shop) -> Result<Channel> {
    let mut config = ChannelConfig::default();
    config.deadline = DEADLINE;
    config.keepalive_time = Duration::from_secs(1);
    config.keepalive_timeout = Duration::from_millis(500);
    config.connect_timeout = Duration::from_secs(1);
    let mesh = Mesh::builder()
        .descriptors(mesh_proto::FILE_DESCRIPTOR_SET)
        .consul(found::client(&shop.url())?)
        .channel_config(config)
        .build()?;
    Ok(mesh.channel(Service::Cart.name()))
}

/// Does it, and undoes it where that is part of it.
async fn hurt(shop: &mut Shop, args: &DemoArgs, extra: Option<String>, start: Instant) -> Result<Done> {
    let tell = |what: &str| {
        if !args.json {
            say(format!("{:>4} s  {what}", start.elapsed().as_secs()));
        }
    };
    sleep(CALM).await;
    let from = start.elapsed();
    let time = length(args.fault);
    let victim = match args.fault {
        Fault::Failover => {
            let id = shop.signal(0, Signal::KILL)?;
            tell(&format!("kill -9 {id}"));
            Some(id)
        }
        Fault::Freeze => {
            let id = shop.signal(0, Signal::STOP)?;
            tell(&format!("SIGSTOP {id}"));
            sleep(time).await;
            shop.signal(0, Signal::CONT)?;
            tell("SIGCONT");
            Some(id)
        }
        Fault::RegistryDown => {
            shop.stop_registry().await;
            tell("the registry is gone");
            sleep(time).await;
            shop.start_registry().await?;
            tell("the registry is back, and empty");
            None
        }
        Fault::Slow | Fault::Blackhole => {
            let slow = Weather::Slow(LATE);
            let weather = if args.fault == Fault::Slow { slow } else { Weather::Hole };
            shop.proxy()?.set(weather);
            tell(&format!("{weather:?}: {}", extra.as_deref().unwrap_or_default()));
            sleep(time).await;
            shop.proxy()?.set(Weather::Fair);
            tell("fair again");
            extra
        }
        Fault::Rolling => {
            for n in 0..usize::from(REPLICAS) {
                tell(&format!("SIGTERM {}", shop.signal(n, Signal::TERM)?));
                sleep(time / u32::from(REPLICAS)).await;
            }
            None
        }
    };
    Ok(Done { time: from..start.elapsed(), victim })
}

fn judge(fault: Fault, board: &Board, done: &Done) -> Vec<Target> {
    let victim = done.victim.as_deref().unwrap_or_default();
    let seconds = Duration::from_secs;
    let mut targets = vec![board.no_failure()];
    match fault {
        Fault::Failover => {
            // `mesh up` starts it again: from the kill to its first answer.
            targets.push(board.back(
                "started again, it answers within 8 s",
                victim,
                done.time.end,
                seconds(8),
            ));
        }
        Fault::Freeze => {
            let out = done.time.start + seconds(2)..done.time.end;
            targets.push(board.share("hung, it is not called after 2 s", victim, &out, 0.0));
            targets.push(board.back("woken, it answers within 5 s", victim, done.time.end, seconds(5)));
        }
        Fault::RegistryDown => {
            let all = usize::from(REPLICAS);
            targets.push(board.all_answer("every instance goes on answering", &done.time, all));
        }
        Fault::Slow => {
            let later = done.time.start + seconds(5)..done.time.end;
            targets.push(board.share("its share is at most 10 % after 5 s", victim, &later, 0.1));
        }
        Fault::Rolling => {}
        Fault::Blackhole => {
            let late = Duration::from_millis(50);
            targets.push(board.longest("no call outlives its deadline by 50 ms", DEADLINE + late));
            targets.push(board.back("healed, it answers within 2 s", victim, done.time.end, seconds(2)));
        }
    }
    targets
}

fn show(line: &Line, json: bool) {
    if json {
        // A map of numbers and names can be written.
        return say(serde_json::to_string(line).unwrap_or_default());
    }
    let Line { t, ok, failed, attempts, by_endpoint } = line;
    let instances: Vec<_> = by_endpoint.iter().map(|(id, calls)| format!("{id} {calls}")).collect();
    say(format!(
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
        say(serde_json::json!({ "verdict": Verdict { met, targets } }).to_string());
    } else {
        for Target { target, measured, met } in targets {
            say(format!("{}  {target}: {measured}", if *met { "met   " } else { "MISSED" }));
        }
    }
    if met { Exit::Fine } else { Exit::Missed }
}
