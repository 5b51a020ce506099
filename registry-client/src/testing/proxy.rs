//! A TCP proxy whose network can be made to fail.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Notify, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use crate::instance::Instance;

mod relay;

/// A fault of the network between a client and a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// No fault: bytes pass unchanged.
    #[default]
    None,
    /// Every byte, and every end of a stream, is delayed by this, in both
    /// directions.
    Delay(Duration),
    /// Nothing arrives, neither bytes nor the end of a stream; new connections
    /// are accepted and silent too. Afterwards the held bytes pass, as if TCP
    /// had resent them.
    BlackHole(Direction),
    /// A black hole in both directions, and new connections hang instead of
    /// being accepted, as without any packet. Linux only.
    Unreachable,
    /// The server has lost its connections without a notice: open and new
    /// connections stay open for the client, accept its data and never respond,
    /// even afterwards.
    HalfOpen,
    /// Each connection is reset after so many more bytes, in both directions
    /// together.
    CutAfter(u64),
}

/// The direction of a black hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Both directions.
    Both,
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

impl Fault {
    /// Returns whether bytes of this direction are stopped.
    fn stops(self, direction: Direction) -> bool {
        match self {
            Self::BlackHole(stopped) => stopped == Direction::Both || stopped == direction,
            Self::Unreachable => true,
            Self::None | Self::Delay(_) | Self::HalfOpen | Self::CutAfter(_) => false,
        }
    }

    fn delay(self) -> Duration {
        if let Self::Delay(delay) = self { delay } else { Duration::ZERO }
    }
}

/// The current fault and the number of changes, so that setting the same fault
/// again counts as a change.
#[derive(Clone, Copy, Debug, Default)]
struct FaultState {
    fault: Fault,
    turn: u64,
}

/// The most open connections; others wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;
/// The backlog of the listener; small, so that the queue can be filled to block
/// new connections.
const BACKLOG: u32 = 16;
/// The timeout of a connection that fills the queue.
const FILL_TIMEOUT: Duration = Duration::from_millis(100);

/// A TCP proxy in front of one server, on the loopback address. It holds at
/// most 1 MiB of each connection and direction. Dropping it closes the port
/// and every connection.
///
/// ```
/// use registry_client::testing::{Direction, Fault, FaultProxy, FaultyServer, Reply};
/// use tokio::{io::AsyncReadExt, net::TcpStream};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let server = FaultyServer::start(Reply::Echo).await?;
/// let proxy = FaultProxy::start(server.address()).await?;
///
/// // `proxy.instance("one")` is the instance for a resolver.
/// let mut through = TcpStream::connect(proxy.address()).await?;
/// server.until(|seen| seen.open == 1).await;
///
/// proxy.set(Fault::BlackHole(Direction::Both)).await;
/// proxy.set(Fault::None).await;
/// proxy.reset();
/// let end = through.read_to_end(&mut Vec::new()).await;
/// assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    state: watch::Sender<FaultState>,
    /// The number of the change that new connections observe.
    applied: watch::Receiver<u64>,
    resetting: Arc<Notify>,
    _accepting: AbortOnDropHandle<()>,
}

impl FaultProxy {
    /// Listens on a free port for connections to `server`, which need not be
    /// there yet.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(server: SocketAddr) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(([127, 0, 0, 1], 0).into())?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let (state, resetting) = (watch::Sender::new(FaultState::default()), Arc::new(Notify::new()));
        let (applying, applied) = watch::channel(0);
        let door = Listener {
            listener,
            address,
            server,
            state: state.subscribe(),
            resetting: resetting.clone(),
            fillers: Vec::new(),
        };
        let accepting = AbortOnDropHandle::new(tokio::spawn(door.run(applying)));
        Ok(Self { address, state, applied, resetting, _accepting: accepting })
    }

    /// Sets the fault, on open connections too. Returns when it applies to new
    /// connections.
    ///
    /// # Cancel safety
    /// Dropping the future stops only the wait.
    pub async fn set(&self, fault: Fault) {
        let mut turn = 0;
        self.state.send_modify(|state| {
            *state = FaultState { fault, turn: state.turn + 1 };
            turn = state.turn;
        });
        // Fails only when the task is gone, and it lives as long as `self`.
        let _ = self.applied.clone().wait_for(|applied| *applied >= turn).await;
    }

    /// Resets (`RST`) every connection that is open now, on both sides.
    pub fn reset(&self) {
        self.resetting.notify_waiters();
    }

    /// The address that it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The instance of the server behind it: passing, of weight 1, with this
    /// id.
    #[must_use]
    pub fn instance(&self, id: &str) -> Instance {
        Instance::new(id, self.address.into())
    }
}

/// The listener of the proxy.
struct Listener {
    listener: TcpListener,
    address: SocketAddr,
    server: SocketAddr,
    state: watch::Receiver<FaultState>,
    resetting: Arc<Notify>,
    /// Connections of the proxy to itself, which keep the queue full.
    fillers: Vec<TcpStream>,
}

impl Listener {
    /// Runs until the proxy is dropped.
    async fn run(mut self, applied: watch::Sender<u64>) {
        let mut open = JoinSet::new();
        loop {
            let state = *self.state.borrow_and_update();
            let shut = state.fault == Fault::Unreachable;
            if shut && self.fillers.is_empty() {
                self.fill().await;
            }
            applied.send_replace(state.turn);
            tokio::select! {
                biased;
                Ok(()) = self.state.changed() => {}
                Some(_) = open.join_next() => {}
                Ok((client, from)) = self.listener.accept(), if !shut && open.len() < MAX_CONNECTIONS => {
                    let ours = self.fillers.iter().position(|filler| filler.local_addr().ok() == Some(from));
                    match ours {
                        Some(filler) => drop(self.fillers.swap_remove(filler)),
                        None => { open.spawn(relay::run(client, self.server, self.state.clone(), self.resetting.clone())); }
                    }
                }
                // The proxy is gone.
                else => return,
            }
        }
    }

    /// Connects to itself until the kernel accepts no more.
    async fn fill(&mut self) {
        // The queue takes one more than its backlog.
        for _ in 0..=BACKLOG {
            match timeout(FILL_TIMEOUT, TcpStream::connect(self.address)).await {
                Ok(Ok(filler)) => self.fillers.push(filler),
                _ => return,
            }
        }
    }
}
