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

/// What is wrong with the network between a client and a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing: bytes pass as they come.
    #[default]
    None,
    /// Every byte, and every end of a stream, arrives so much later, both
    /// ways.
    Delay(Duration),
    /// Nothing arrives, neither bytes nor the end of a stream; new
    /// connections are accepted and as silent. When it is over, what waited
    /// passes, as TCP would have sent it again.
    BlackHole(Way),
    /// As a black hole both ways, and new connections are not accepted: they
    /// hang, as where no packet arrives. Linux only.
    Unreachable,
    /// The server has forgotten its connections and cannot tell: those that
    /// are open, and those that begin, stay so for the client, take what it
    /// sends and never answer, also when this is over.
    HalfOpen,
    /// Each connection is reset after so many bytes more, both ways together.
    CutAfter(u64),
}

/// Which way something does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Neither way.
    Both,
    /// Not from the client to the server.
    ToServer,
    /// Not from the server to the client.
    ToClient,
}

impl Fault {
    /// Returns whether bytes that go this way are stopped.
    fn stops(self, way: Way) -> bool {
        match self {
            Self::BlackHole(stopped) => stopped == Way::Both || stopped == way,
            Self::Unreachable => true,
            Self::None | Self::Delay(_) | Self::HalfOpen | Self::CutAfter(_) => false,
        }
    }

    fn delay(self) -> Duration {
        if let Self::Delay(delay) = self { delay } else { Duration::ZERO }
    }
}

/// The fault of now and how many there were, so that the same one set again
/// counts anew.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    fault: Fault,
    turn: u64,
}

/// The most connections carried at a time; others wait to be accepted.
const CONNECTIONS: usize = 1024;
/// How many connections the kernel holds for us; few, so that the queue can
/// be filled where none is to be accepted.
const BACKLOG: u32 = 16;
/// How long one of those that fill the queue may take to enter it.
const FILLING: Duration = Duration::from_millis(100);

/// A TCP proxy in front of one server, on the loopback address. It holds at
/// most 1 MiB of each connection and direction. Dropping it closes the port
/// and every connection.
///
/// ```
/// use registry_client::testing::{Fault, FaultProxy, FaultyServer, Reply, Way};
/// use tokio::{io::AsyncReadExt, net::TcpStream};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let server = FaultyServer::start(Reply::Echo).await?;
/// let proxy = FaultProxy::start(server.address()).await?;
///
/// // `proxy.instance("one")` is what a resolver tells instead of the server.
/// let mut through = TcpStream::connect(proxy.address()).await?;
/// server.until(|seen| seen.open == 1).await;
///
/// proxy.set(Fault::BlackHole(Way::Both)).await;
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
    state: watch::Sender<State>,
    /// The turn that new connections obey.
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
        let (state, resetting) = (watch::Sender::new(State::default()), Arc::new(Notify::new()));
        let (applying, applied) = watch::channel(0);
        let door = Door {
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

    /// Makes the network so from now on; on open connections too. Returns
    /// when new connections obey.
    ///
    /// # Cancel safety
    /// Dropping the future stops only the wait.
    pub async fn set(&self, fault: Fault) {
        let mut turn = 0;
        self.state.send_modify(|state| {
            *state = State { fault, turn: state.turn + 1 };
            turn = state.turn;
        });
        // Fails only when the task is gone, and it lives as long as `self`.
        let _ = self.applied.clone().wait_for(|applied| *applied >= turn).await;
    }

    /// Resets (`RST`) every connection that is open now, on both sides.
    pub fn reset(&self) {
        self.resetting.notify_waiters();
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The server behind it as a resolver tells it: passing, of weight 1,
    /// under this id.
    #[must_use]
    pub fn instance(&self, id: &str) -> Instance {
        Instance::new(id, self.address.into())
    }
}

/// Where connections come in.
struct Door {
    listener: TcpListener,
    address: SocketAddr,
    server: SocketAddr,
    state: watch::Receiver<State>,
    resetting: Arc<Notify>,
    /// Our own connections to ourselves, which keep the queue full.
    fillers: Vec<TcpStream>,
}

impl Door {
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
                Ok((client, from)) = self.listener.accept(), if !shut && open.len() < CONNECTIONS => {
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

    /// Connects to ourselves until the kernel takes no more.
    async fn fill(&mut self) {
        // One more than asked for enters the queue.
        for _ in 0..=BACKLOG {
            match timeout(FILLING, TcpStream::connect(self.address)).await {
                Ok(Ok(filler)) => self.fillers.push(filler),
                _ => return,
            }
        }
    }
}
