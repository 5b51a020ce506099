//! The attack kit: what a hostile peer does to a gRPC server, and a hostile
//! server to those who call it. Each attack is a
//! process of its own, at the lowest priority, so that what it costs the server
//! can be told from what it costs the machine.

use std::{
    future::{Future, pending},
    io,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Context, Result};
use futures_util::future::{BoxFuture, join_all};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use crate::{cli::AttackArgs, print_line};

mod calls;
mod floods;
pub(crate) mod hostile_server;
mod raw_connection;
mod server_kinds;
mod sockets;
mod streams;
pub(crate) mod victim;

pub(crate) use server_kinds::{ALL as HOSTILE, HostileServer, parse as parse_server};
pub(crate) use victim::VictimReport;

/// The pause before a connection that the server has ended is opened again.
const REOPEN_DELAY: Duration = Duration::from_millis(20);

/// Connections that were opened and that the server has closed.
static OPENED: AtomicU64 = AtomicU64::new(0);
static CLOSED: AtomicU64 = AtomicU64::new(0);
/// Bytes that were sent.
static SENT: AtomicU64 = AtomicU64::new(0);

/// One way to attack.
#[derive(Debug)]
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    /// Whether its sockets say nothing: it lasts until the server has closed all
    /// of them.
    pub(crate) is_mute: bool,
    run: fn(SocketAddr) -> BoxFuture<'static, ()>,
}

/// What an attack did.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) opened: u64,
    pub(crate) closed: u64,
    pub(crate) sent: u64,
    /// Whether it ended by itself: all that it held was taken from it.
    pub(crate) is_over: bool,
    pub(crate) took_ms: u64,
    /// How long a connection of a hostile server was open at the most.
    #[serde(default)]
    pub(crate) longest_ms: u64,
}

macro_rules! attacks {
    ($($name:literal $run:path),* $(,)?) => {
        [$(Attack { name: $name, is_mute: false, run: |to| Box::pin($run(to)) }),*]
    };
}

const MUTE: Attack = Attack { name: "mute sockets", is_mute: true, run: |to| Box::pin(sockets::mute(to)) };

const OTHERS: [Attack; 23] = attacks![
    "idle connections" sockets::idle,
    "connections opened and closed" sockets::churn,
    "headers without a body" streams::headers_only,
    "open streams" streams::open,
    "unread watches" streams::watches,
    "unread answers, window 0" streams::window_zero,
    "unread answers, deaf socket" streams::deaf,
    "unread small answers, deaf socket" streams::deaf_small,
    "unread refusals, deaf socket" streams::refusals,
    "unread stream that is sent to" streams::unread_but_sent_to,
    "windows of one byte" streams::small_windows,
    "rapid reset" floods::rapid_reset,
    "settings" floods::settings,
    "pings" floods::pings,
    "empty DATA" floods::empty_data,
    "CONTINUATION" floods::continuation,
    "header lists" floods::header_lists,
    "priority and unknown frames" floods::unknown_frames,
    "bodies that never end" calls::endless_bodies,
    "announced beyond the limit" calls::beyond_the_limit,
    "messages in frames of a byte" calls::small_frames,
    "gzip bombs" calls::gzip_bombs,
    "answers to be compressed" calls::to_be_compressed,
];

/// Every attack.
pub(crate) fn all() -> impl Iterator<Item = &'static Attack> {
    static ALL: (Attack, [Attack; 23]) = (MUTE, OTHERS);
    std::iter::once(&ALL.0).chain(&ALL.1)
}

/// The attack of that name.
///
/// # Errors
/// When there is none.
pub(crate) fn parse(name: &str) -> Result<&'static Attack, String> {
    all().find(|attack| attack.name == name).ok_or_else(|| format!("there is no attack `{name}`"))
}

/// Attacks, and tells what was done.
///
/// # Errors
/// When the report cannot be written.
pub(crate) async fn run(AttackArgs { attack, target, time }: AttackArgs) -> Result<()> {
    let _ = rustix::process::nice(19);
    let began = tokio::time::Instant::now();
    let ended = timeout(time, (attack.run)(target)).await;
    let report = report(began.elapsed(), ended.is_ok());
    print_line(format_args!(
        "attacked {}",
        serde_json::to_string(&report).context("could not write the report")?
    ));
    Ok(())
}

/// What was done within `took`.
fn report(took: Duration, is_over: bool) -> Report {
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let [opened, closed, sent] = [&OPENED, &CLOSED, &SENT].map(|count| count.load(Relaxed));
    Report { opened, closed, sent, is_over, took_ms, longest_ms: 0 }
}

/// Runs `attack` on so many connections at once, each again and again.
async fn on_each<F>(connections: usize, attack: impl Fn() -> F)
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let again = |_| {
        let attack = &attack;
        async move {
            loop {
                // A task of its own: a flood must not keep the others from theirs.
                let _ = tokio::spawn(attack()).await;
                sleep(REOPEN_DELAY).await;
            }
        }
    };
    join_all((0..connections).map(again)).await;
}

/// Keeps what `held` has until the process ends.
async fn keep<T>(held: T) {
    let _held = held;
    pending::<()>().await;
}
