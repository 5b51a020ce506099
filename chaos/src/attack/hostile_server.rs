//! A hostile server as a process: accepts connections and attacks them in the
//! way of its kind.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::sleep,
};

use super::{
    CLOSED, OPENED, REOPEN_DELAY, SENT,
    raw_connection::{ACK, HEADERS, PING, PREFACE, SETTINGS, frame},
    report,
    server_kinds::{Closes, HostileServer},
};
use crate::terminal::print_line;

/// A hostile server.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct HostArgs {
    /// The name.
    #[arg(value_parser = super::parse_server)]
    pub(crate) server: &'static HostileServer,
    /// The address that it listens on.
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    /// The longest run.
    #[arg(long, value_parser = registry_client::parse_duration)]
    pub(crate) time: Duration,
}

/// The limit on responses that wait to be written.
const MAX_QUEUED_RESPONSES: usize = 64;

/// The longest time that a connection was open, in milliseconds.
static LONGEST_MS: AtomicU64 = AtomicU64::new(0);

/// Serves until a line is written to standard input or its time is over, and
/// prints the report.
///
/// # Errors
/// When it cannot listen, or the report cannot be written.
pub(crate) async fn run(HostArgs { server, listen, time }: HostArgs) -> Result<()> {
    let _ = rustix::process::nice(19);
    let listener = TcpListener::bind(listen).await;
    let listener = listener.with_context(|| format!("could not listen on {listen}"))?;
    print_line("listens");
    let began = Instant::now();
    let stop_line = tokio::task::spawn_blocking(|| io::stdin().read_line(&mut String::new()));
    tokio::select! {
        () = accept_all(&listener, server) => {}
        _ = stop_line => {}
        () = sleep(time) => {}
    }
    let longest_ms = LONGEST_MS.load(Relaxed);
    let report = super::AttackReport { longest_ms, ..report(began.elapsed(), false) };
    print_line(format_args!(
        "attacked {}",
        serde_json::to_string(&report).context("could not write the report")?
    ));
    Ok(())
}

async fn accept_all(listener: &TcpListener, server: &'static HostileServer) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        OPENED.fetch_add(1, Relaxed);
        tokio::spawn(async move {
            let opened = Instant::now();
            let watch = async {
                loop {
                    sleep(REOPEN_DELAY).await;
                    LONGEST_MS.fetch_max(opened.elapsed().as_millis() as u64, Relaxed);
                }
            };
            tokio::select! {
                _ = serve_connection(stream, server) => {}
                () = watch => {}
            }
            CLOSED.fetch_add(1, Relaxed);
        });
    }
}

/// Serves a connection until either side closes it.
async fn serve_connection(stream: TcpStream, server: &'static HostileServer) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (input, output) = stream.into_split();
    let (sender, responses) = mpsc::channel(MAX_QUEUED_RESPONSES);
    let newest = Arc::<AtomicU32>::default();
    tokio::select! {
        ended = write(output, server, responses, newest.clone()) => ended,
        ended = read(BufReader::new(input), server, &sender, &newest) => ended,
    }
}

async fn write(
    mut output: OwnedWriteHalf,
    server: &'static HostileServer,
    mut responses: mpsc::Receiver<Vec<u8>>,
    newest: Arc<AtomicU32>,
) -> io::Result<()> {
    let mut send = async |bytes: &[u8]| {
        output.write_all(bytes).await?;
        SENT.fetch_add(bytes.len() as u64, Relaxed);
        io::Result::Ok(())
    };
    send(&(server.greeting)()).await?;
    if server.closes == Closes::AfterGreeting {
        return Ok(());
    }
    loop {
        let stream = newest.load(Relaxed);
        let flood = server.flood.filter(|_| stream != 0);
        tokio::select! {
            biased;
            response = responses.recv() => {
                let Some(response) = response else { return Ok(()) };
                send(&response).await?;
                if server.closes == Closes::AfterResponse && newest.load(Relaxed) != 0 {
                    return Ok(());
                }
            }
            () = std::future::ready(()), if flood.is_some() => {
                let Some(flood) = flood else { continue };
                send(&flood(stream)).await?;
                tokio::task::yield_now().await;
            }
        }
    }
}

async fn read(
    mut input: BufReader<OwnedReadHalf>,
    server: &'static HostileServer,
    responses: &mpsc::Sender<Vec<u8>>,
    newest: &AtomicU32,
) -> io::Result<()> {
    input.read_exact(&mut [0; PREFACE.len()]).await?;
    loop {
        let mut head = [0; 9];
        input.read_exact(&mut head).await?;
        let [_, high, low, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; usize::from(high) << 8 | usize::from(low)];
        input.read_exact(&mut payload).await?;
        let bytes = match kind {
            SETTINGS if flags & ACK == 0 && server.sends_acks => frame(SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 && server.sends_acks => frame(PING, ACK, 0, &payload),
            HEADERS => {
                let stream = u32::from_be_bytes(stream);
                newest.store(stream, Relaxed);
                (server.respond)(stream)
            }
            _ => continue,
        };
        if !bytes.is_empty() && responses.send(bytes).await.is_err() {
            return Ok(());
        }
    }
}
