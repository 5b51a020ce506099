//! The attack kit: attacks of a hostile peer on a gRPC server, and of a hostile
//! server on its clients. Each attack is a process of its own, at the lowest
//! priority, so that its cost for the server can be separated from its cost for
//! the machine.

use std::{
    future::{Future, pending},
    io,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;
use futures_util::future::{BoxFuture, join_all};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use crate::terminal::print_line;

mod calls;
mod floods;
pub(crate) mod hostile_server;
mod raw_connection;
mod server_kinds;
mod sockets;
mod streams;
pub(crate) mod victim;

pub(crate) use server_kinds::{ALL as HOSTILE_SERVERS, HostileServer, parse as parse_server};
pub(crate) use victim::VictimReport;

/// `chaos attack`.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct AttackArgs {
    /// The name.
    #[arg(value_parser = parse)]
    pub(crate) attack: &'static Attack,
    /// The server's address.
    #[arg(long)]
    pub(crate) target: SocketAddr,
    /// The longest run.
    #[arg(long, value_parser = registry_client::parse_duration)]
    pub(crate) time: Duration,
}

/// The delay before a connection that the server has closed is opened again.
const REOPEN_DELAY: Duration = Duration::from_millis(20);

/// The number of connections that were opened, and that the server has closed.
static OPENED: AtomicU64 = AtomicU64::new(0);
static CLOSED: AtomicU64 = AtomicU64::new(0);
/// The number of bytes that were sent.
static SENT: AtomicU64 = AtomicU64::new(0);

/// An attack.
#[derive(Debug)]
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    /// True if its sockets send nothing: it lasts until the server has closed
    /// all of them.
    pub(crate) is_mute: bool,
    run: fn(SocketAddr) -> BoxFuture<'static, ()>,
}

/// The measurements of an attacker.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct AttackReport {
    pub(crate) opened: u64,
    pub(crate) closed: u64,
    pub(crate) sent: u64,
    /// True if it ended by itself: the server has closed all its connections.
    pub(crate) is_over: bool,
    pub(crate) took_ms: u64,
    /// The longest time that a connection of a hostile server was open.
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
    "unread answers, deaf socket" streams::unread_socket,
    "unread small answers, deaf socket" streams::unread_socket_small,
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

/// All attacks.
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

/// Runs the attack and prints the report.
///
/// # Errors
/// When the report cannot be written.
pub(crate) async fn run(AttackArgs { attack, target, time }: AttackArgs) -> Result<()> {
    let _ = rustix::process::nice(19);
    let began = tokio::time::Instant::now();
    let result = timeout(time, (attack.run)(target)).await;
    let report = report(began.elapsed(), result.is_ok());
    print_line(format_args!(
        "attacked {}",
        serde_json::to_string(&report).context("could not write the report")?
    ));
    Ok(())
}

/// The report of an attack that took `took`.
fn report(took: Duration, is_over: bool) -> AttackReport {
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let [opened, closed, sent] = [&OPENED, &CLOSED, &SENT].map(|count| count.load(Relaxed));
    AttackReport { opened, closed, sent, is_over, took_ms, longest_ms: 0 }
}

/// Repeats `attack` on each of so many concurrent connections.
async fn on_each_connection<F>(connections: usize, attack: impl Fn() -> F)
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let repeat = |_| {
        let attack = &attack;
        async move {
            loop {
                // A task of its own: a flood must not block the others.
                let _ = tokio::spawn(attack()).await;
                sleep(REOPEN_DELAY).await;
            }
        }
    };
    join_all((0..connections).map(repeat)).await;
}

/// Holds `value` until the process ends.
async fn hold_forever<T>(value: T) {
    let _held = value;
    pending::<()>().await;
}
