//! A hostile server, as a process: takes connections in and does to them as its
//! kind says.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use anyhow::{Context, Result};
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
use crate::{cli::HostArgs, print_line};

/// How many answers may wait to be written.
const ANSWERS: usize = 64;

/// How long a connection was open at the most, in milliseconds.
static LONGEST: AtomicU64 = AtomicU64::new(0);

/// Serves until a line is written to its standard input or its time is over, and
/// tells what was done.
///
/// # Errors
/// When it cannot listen, or the report cannot be written.
pub(crate) async fn run(HostArgs { server, listen, time }: HostArgs) -> Result<()> {
    let _ = rustix::process::nice(19);
    let listener = TcpListener::bind(listen).await;
    let listener = listener.with_context(|| format!("could not listen on {listen}"))?;
    print_line("listens");
    let began = Instant::now();
    let asked = tokio::task::spawn_blocking(|| io::stdin().read_line(&mut String::new()));
    tokio::select! {
        () = take_in(&listener, server) => {}
        _ = asked => {}
        () = sleep(time) => {}
    }
    let longest_ms = LONGEST.load(Relaxed);
    let report = super::Report { longest_ms, ..report(began.elapsed(), false) };
    print_line(format_args!(
        "attacked {}",
        serde_json::to_string(&report).context("could not write the report")?
    ));
    Ok(())
}

async fn take_in(listener: &TcpListener, server: &'static HostileServer) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        OPENED.fetch_add(1, Relaxed);
        tokio::spawn(async move {
            let opened = Instant::now();
            let watch = async {
                loop {
                    sleep(REOPEN_DELAY).await;
                    LONGEST.fetch_max(opened.elapsed().as_millis() as u64, Relaxed);
                }
            };
            tokio::select! {
                _ = converse(stream, server) => {}
                () = watch => {}
            }
            CLOSED.fetch_add(1, Relaxed);
        });
    }
}

/// Ends when either side closes the connection.
async fn converse(stream: TcpStream, server: &'static HostileServer) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (input, output) = stream.into_split();
    let (answer, answers) = mpsc::channel(ANSWERS);
    let newest = Arc::<AtomicU32>::default();
    tokio::select! {
        ended = write(output, server, answers, newest.clone()) => ended,
        ended = read(BufReader::new(input), server, &answer, &newest) => ended,
    }
}

async fn write(
    mut output: OwnedWriteHalf,
    server: &'static HostileServer,
    mut answers: mpsc::Receiver<Vec<u8>>,
    newest: Arc<AtomicU32>,
) -> io::Result<()> {
    let mut send = async |bytes: &[u8]| {
        output.write_all(bytes).await?;
        SENT.fetch_add(bytes.len() as u64, Relaxed);
        io::Result::Ok(())
    };
    send(&(server.first)()).await?;
    if server.closes == Closes::AtOnce {
        return Ok(());
    }
    loop {
        let stream = newest.load(Relaxed);
        let flood = server.flood.filter(|_| stream != 0);
        tokio::select! {
            biased;
            answer = answers.recv() => {
                let Some(answer) = answer else { return Ok(()) };
                send(&answer).await?;
                if server.closes == Closes::AfterAnswer && newest.load(Relaxed) != 0 {
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
    answer: &mpsc::Sender<Vec<u8>>,
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
            SETTINGS if flags & ACK == 0 && server.is_polite => frame(SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 && server.is_polite => frame(PING, ACK, 0, &payload),
            HEADERS => {
                let stream = u32::from_be_bytes(stream);
                newest.store(stream, Relaxed);
                (server.answer)(stream)
            }
            _ => continue,
        };
        if !bytes.is_empty() && answer.send(bytes).await.is_err() {
            return Ok(());
        }
    }
}
