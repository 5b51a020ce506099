//! Peers that send frames without end.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use registry_client::{instance::Instance, resolve::fixed::FixedResolver};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tonic::Code;

use crate::{
    channel::{ADD, call, channel, echo},
    server::within,
};

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// An HTTP/2 server that answers its first request with informational
/// responses without end, and no other. On a thread of its own, which ends with
/// its connection.
fn flooder() -> SocketAddr {
    let (report, reported) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            report.send(listener.local_addr().unwrap()).unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            // Ends with an error when the client has enough.
            let _ = flood(stream).await;
        });
    });
    reported.recv().unwrap()
}

async fn flood(stream: TcpStream) -> std::io::Result<()> {
    let (mut read, mut write) = stream.into_split();
    let (answer, mut answers) = mpsc::unbounded_channel::<Vec<u8>>();
    let (begin, mut begun) = mpsc::channel::<[u8; 4]>(1);
    let writing = tokio::spawn(async move {
        write.write_all(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]).await?;
        let mut flood = Vec::new();
        loop {
            tokio::select! {
                biased;
                Some(answer) = answers.recv() => write.write_all(&answer).await?,
                Some(stream) = begun.recv(), if flood.is_empty() => {
                    // `:status: 103`, as a literal with the name of index 8.
                    let head = [0, 0, 5, HEADERS, END_HEADERS];
                    flood = [&head[..], &stream, &[0x08, 3, b'1', b'0', b'3']].concat().repeat(2_000);
                }
                written = write.write_all(&flood), if !flood.is_empty() => written?,
                else => return std::io::Result::Ok(()),
            }
        }
    });
    read.read_exact(&mut [0; 24]).await?;
    loop {
        let mut head = [0; 9];
        read.read_exact(&mut head).await?;
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        read.read_exact(&mut payload).await?;
        match head[3] {
            SETTINGS if head[4] & ACK == 0 => {
                let _ = answer.send(vec![0, 0, 0, SETTINGS, ACK, 0, 0, 0, 0]);
            }
            PING if head[4] & ACK == 0 => {
                let _ = answer.send([&[0, 0, 8, PING, ACK, 0, 0, 0, 0], &payload[..]].concat());
            }
            HEADERS => {
                let _ = begin.try_send([head[5], head[6], head[7], head[8]]);
            }
            _ => {}
        }
        if writing.is_finished() {
            return Ok(());
        }
    }
}

#[tokio::test]
async fn informational_responses_without_end_reset_the_call_and_delay_no_other() {
    let well = echo().await;
    let flooding = FixedResolver::with([Instance::new("flooder", flooder().into())]);
    let flooding = channel(&flooding, |c| c.health_watch = false);
    let resolver = FixedResolver::with([well.instance("well")]);
    // Without a limit on what is read in a turn, calls waited for 3 s.
    let other = channel(&resolver, |c| c.deadline = Duration::from_secs(2));
    call(&other, ADD).await.unwrap();

    let began = Instant::now();
    let flooded = tokio::spawn(async move { (call(&flooding, ADD).await, flooding) });
    // The flood goes on after the reset.
    while began.elapsed() < Duration::from_secs(2) {
        call(&other, ADD).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (failed, _channel) = within(flooded).await.unwrap();
    let failed = failed.unwrap_err();
    assert_eq!(failed.code(), Code::Internal, "{failed}");
}
