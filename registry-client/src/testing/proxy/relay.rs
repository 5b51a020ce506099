//! One connection through the proxy.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};

use super::{Direction, Fault, FaultState};

/// The bytes of one read.
const CHUNK_BYTES: usize = 16 << 10;
/// The most chunks of one direction that are delayed at a time.
const MAX_CHUNKS: usize = 64;

/// Relays a connection until its end.
pub(super) async fn run(
    mut client: TcpStream,
    address: SocketAddr,
    state: watch::Receiver<FaultState>,
    resetting: Arc<Notify>,
) {
    let mut reset = pin!(resetting.notified_owned());
    reset.as_mut().enable();
    let mut server = None;
    let broken = tokio::select! {
        biased;
        () = reset => true,
        carried = carry(&mut client, &mut server, address, state) => carried.is_err(),
    };
    if broken {
        for socket in [Some(client), server].into_iter().flatten() {
            // Fails only on a socket that is gone.
            let _ = socket.set_zero_linger();
        }
    }
}

/// Relays both directions; `server` is the connection to `address`, while there
/// is one.
///
/// # Errors
/// When the connection broke instead of ending.
async fn carry(
    client: &mut TcpStream,
    server: &mut Option<TcpStream>,
    address: SocketAddr,
    mut state: watch::Receiver<FaultState>,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    // A connection is not made through a black hole either.
    wait_for(&mut state, |fault| !fault.stops(Direction::ToServer) && !fault.stops(Direction::ToClient))
        .await;
    let forgotten = state.borrow().fault == Fault::HalfOpen || {
        let server = server.insert(TcpStream::connect(address).await?);
        server.set_nodelay(true)?;
        let cut = ResetLimit::default();
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let up = pump(from_client, to_server, Direction::ToServer, state.clone(), &cut);
        let down = pump(from_server, to_client, Direction::ToClient, state.clone(), &cut);
        tokio::select! {
            biased;
            () = wait_for(&mut state, |fault| fault == Fault::HalfOpen) => true,
            both = async { tokio::try_join!(up, down) } => both.map(|_| false)?,
        }
    };
    if forgotten {
        // The server's side ends, without a notice to the client.
        *server = None;
        let mut ignored = BytesMut::with_capacity(CHUNK_BYTES);
        while client.read_buf(&mut ignored).await? > 0 {
            ignored.clear();
        }
    }
    Ok(())
}

/// Waits until `accepts` accepts the fault; never completes when the proxy was
/// dropped, which ends its connections.
async fn wait_for(state: &mut watch::Receiver<FaultState>, accepts: impl Fn(Fault) -> bool) {
    if state.wait_for(|state| accepts(state.fault)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The bytes that a connection has relayed since its limit was set.
#[derive(Default)]
struct ResetLimit(Mutex<(u64, u64)>);

impl ResetLimit {
    /// The number of `size` bytes that may pass now, and whether they are the
    /// last.
    fn admit(&self, state: FaultState, size: usize) -> (usize, bool) {
        let Fault::CutAfter(limit) = state.fault else { return (size, false) };
        let mut carried = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if carried.0 != state.turn {
            *carried = (state.turn, 0);
        }
        let admitted = size.min(usize::try_from(limit - carried.1).unwrap_or(usize::MAX));
        carried.1 += admitted as u64;
        (admitted, carried.1 == limit)
    }
}

/// Relays one direction, until its end was passed on.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    direction: Direction,
    mut state: watch::Receiver<FaultState>,
    cut: &ResetLimit,
) -> io::Result<()> {
    // What arrived and when it is due; an empty one is the end.
    let mut held: VecDeque<(Instant, Bytes)> = VecDeque::new();
    let mut ended = false;
    loop {
        let now = *state.borrow_and_update();
        let passes = !now.fault.stops(direction);
        let due = held.front().map(|(due, _)| *due);
        let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
        tokio::select! {
            biased;
            Ok(()) = state.changed() => {}
            () = sleep_until_some(due), if passes && due.is_some() => {
                let Some((_, data)) = held.pop_front() else { continue };
                if data.is_empty() {
                    return to.shutdown().await;
                }
                let (admitted, last) = cut.admit(now, data.len());
                to.write_all(&data[..admitted]).await?;
                if last {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
            }
            read = from.read_buf(&mut buffer), if passes && !ended && held.len() < MAX_CHUNKS => {
                ended = read? == 0;
                held.push_back((Instant::now() + now.fault.delay(), buffer.freeze()));
            }
        }
    }
}

/// Completes at `at`; never without one.
async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
