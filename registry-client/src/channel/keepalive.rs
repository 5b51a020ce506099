//! Whether the peer of a connection is still alive.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

/// How long a peer may be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience {
    /// After how long without a byte it is asked whether it is alive.
    time: Duration,
    /// The same while it owes an answer.
    owing: Duration,
    /// How long it may take to say so.
    timeout: Duration,
}

impl Patience {
    pub(super) fn new(time: Duration, timeout: Duration) -> Self {
        Self { time, owing: time.min(timeout) / 2, timeout }
    }

    /// gRFC A8: a server that calls us too eager is asked half as often.
    pub(super) fn doubled(self) -> Self {
        Self { time: self.time.saturating_mul(2), owing: self.owing.saturating_mul(2), ..self }
    }

    pub(super) fn time(self) -> Duration {
        self.time
    }
}

/// The streams of a connection, in one word so that a call pays for one
/// addition: how many there ever were, and how many are open.
#[derive(Debug, Default)]
pub(super) struct Streams(AtomicU64);

const BEGUN: u64 = 1 << 32;

impl Streams {
    /// One begins; how many there ever were before it, modulo 2³².
    pub(super) fn begin(&self) -> u32 {
        (self.0.fetch_add(BEGUN + 1, Relaxed) >> 32) as u32
    }

    pub(super) fn end(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    pub(super) fn open(&self) -> u32 {
        self.0.load(Relaxed) as u32
    }

    /// How many there ever were, modulo 2³².
    pub(super) fn begun(&self) -> u32 {
        (self.0.load(Relaxed) >> 32) as u32
    }
}

/// How many looks at a connection that owes answers make up `owing`; the
/// silence is at least one look shorter than that.
const LOOKS: u32 = 4;

/// Asks a connection on which nothing arrives whether it is alive.
///
/// Source: gRFC A8 (client-side keepalive). Unlike there, an idle connection
/// is asked too: it stands in the ready set, and the next call should not be
/// the one to find out. And one that owes answers is asked sooner, once for
/// each silence, so that a call which sits on a dead peer still has time for
/// another; servers that count pings forgive those that answers follow.
pub(super) struct Keepalive {
    ping: Option<h2::PingPong>,
    /// Set by every byte that arrives.
    alive: Arc<AtomicBool>,
    streams: Arc<Streams>,
    patience: Patience,
    mode: Mode,
    /// Whether the peer has ever answered.
    answered: bool,
    /// How many streams there had been when it last did: the silence of those
    /// is accounted for.
    settled: u32,
    timer: Pin<Box<Sleep>>,
}

#[derive(Debug)]
enum Mode {
    /// It owes nothing, or has just said that it is alive.
    Idle,
    /// It owes answers; `silent` looks in a row found nothing new.
    Owing { silent: u32 },
    /// It was asked after so long a silence and has not answered.
    Asked { after: Duration },
}

impl Keepalive {
    /// Asks at once; the first answer has until `first`.
    pub(super) fn new(
        mut ping: Option<h2::PingPong>,
        alive: Arc<AtomicBool>,
        streams: Arc<Streams>,
        patience: Patience,
        first: Instant,
    ) -> Self {
        if let Some(ping) = &mut ping {
            // Fails only when a ping is already under way.
            let _ = ping.send_ping(h2::Ping::opaque());
        }
        let timer = Box::pin(sleep_until(first));
        let mode = Mode::Asked { after: Duration::ZERO };
        Self { ping, alive, streams, patience, mode, answered: false, settled: 0, timer }
    }

    /// Whether the peer has ever answered.
    pub(super) fn answered(&self) -> bool {
        self.answered
    }

    /// Ready when the peer is silent for too long; with how long that is. To
    /// be polled whenever the connection is.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        if let (Mode::Asked { .. }, Some(ping)) = (&self.mode, &mut self.ping)
            && ping.poll_pong(cx).is_ready()
        {
            self.answered = true;
            self.settled = self.streams.begun();
            // These bytes were the answer, not those that were asked about.
            self.alive.store(false, Relaxed);
            self.enter(Mode::Idle, self.patience.time);
        }
        if matches!(self.mode, Mode::Idle) && self.owes_news() {
            self.enter(Mode::Owing { silent: 0 }, self.patience.owing / LOOKS);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let heard = self.alive.swap(false, Relaxed);
            match self.mode {
                Mode::Asked { after } if !(heard && self.answered) => {
                    return Poll::Ready(after + self.patience.timeout);
                }
                // Something comes, though not the answer: slow, and alive.
                Mode::Asked { .. } => {
                    self.enter(Mode::Asked { after: Duration::ZERO }, self.patience.timeout);
                }
                Mode::Owing { .. } if self.streams.open() == 0 => self.enter(Mode::Idle, self.patience.time),
                Mode::Owing { silent } if heard || silent + 2 < LOOKS => {
                    let silent = if heard { 0 } else { silent + 1 };
                    self.enter(Mode::Owing { silent }, self.patience.owing / LOOKS);
                }
                Mode::Idle if heard => self.enter(Mode::Idle, self.patience.time),
                Mode::Idle => self.ask(self.patience.time),
                Mode::Owing { .. } => self.ask(self.patience.owing),
            }
        }
        Poll::Pending
    }

    /// Whether streams are open that the last answer does not account for, or
    /// something came since: their next silence is a new one.
    fn owes_news(&self) -> bool {
        self.streams.open() > 0 && (self.streams.begun() != self.settled || self.alive.load(Relaxed))
    }

    fn ask(&mut self, after: Duration) {
        match self.ping.as_mut().map(|ping| ping.send_ping(h2::Ping::opaque())) {
            Some(Ok(())) => self.enter(Mode::Asked { after }, self.patience.timeout),
            _ => self.enter(Mode::Idle, self.patience.time),
        }
    }

    fn enter(&mut self, mode: Mode, timer: Duration) {
        self.mode = mode;
        self.timer.as_mut().reset(Instant::now() + timer);
    }
}

/// A socket that remembers whether anything arrived.
pub(super) struct Observed<T> {
    pub(super) io: T,
    pub(super) alive: Arc<AtomicBool>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Observed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.alive.store(true, Relaxed);
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Observed<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
        time::sleep,
    };

    use super::{
        super::{
            connect::Connector,
            connection::{Closed, Established, connect},
            failure::Peer,
        },
        *,
    };
    use crate::{ChannelConfig, instance::InstanceId};

    /// An HTTP/2 peer that answers no request; and pings for as long as
    /// `alive` says.
    async fn mute(mut io: DuplexStream, pings: Arc<AtomicU32>, alive: Arc<AtomicBool>) {
        const PREFACE: usize = 24;
        const SETTINGS: u8 = 4;
        const PING: u8 = 6;
        io.write_all(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]).await.unwrap();
        io.read_exact(&mut [0; PREFACE]).await.unwrap();
        let mut head = [0; 9];
        while io.read_exact(&mut head).await.is_ok() {
            let size = usize::from(head[1]) << 8 | usize::from(head[2]);
            let mut frame = vec![0; size];
            io.read_exact(&mut frame).await.unwrap();
            let ack = head[4] & 1 == 1;
            match head[3] {
                SETTINGS if !ack => io.write_all(&[0, 0, 0, SETTINGS, 1, 0, 0, 0, 0]).await.unwrap(),
                PING if !ack => {
                    pings.fetch_add(1, Relaxed);
                    if alive.load(Relaxed) {
                        io.write_all(&[0, 0, 8, PING, 1, 0, 0, 0, 0]).await.unwrap();
                        io.write_all(&frame).await.unwrap();
                    }
                }
                _ => {}
            }
        }
    }

    struct Bed {
        established: Established,
        pings: Arc<AtomicU32>,
        alive: Arc<AtomicBool>,
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// A connection to a mute peer, to be asked after 10 s, or 2 s when it
    /// owes answers, and given up 4 s later.
    async fn bed() -> Bed {
        let (pings, alive) = (Arc::<AtomicU32>::default(), Arc::new(AtomicBool::new(true)));
        let told = (pings.clone(), alive.clone());
        let connector = Connector::new(move |_| {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            tokio::spawn(mute(theirs, told.0.clone(), told.1.clone()));
            async { Ok(ours) }
        });
        let peer = Peer { id: InstanceId::new("mute"), address: "127.0.0.1:1".parse().unwrap() };
        let config = ChannelConfig::default();
        let patience = Patience::new(10 * SECOND, 4 * SECOND);
        let established = connect(peer, <_>::default(), &connector, &config, patience).await;
        let Ok(established) = established else { panic!("it answers pings") };
        Bed { established, pings, alive }
    }

    /// A request under way for as long as the returned value lives.
    fn request(bed: &Bed) -> impl Sized + use<> {
        let head = http::Request::get("http://mute/").body(()).unwrap();
        bed.established.connection.begin();
        bed.established.connection.send(head, true).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_owes_answers_is_asked_soon_and_once_for_each_silence() {
        let bed = bed().await;
        let pings = || bed.pings.load(Relaxed);
        let _first = request(&bed);
        sleep(SECOND).await;
        assert_eq!(pings(), 1, "the one that connecting ends with");
        sleep(SECOND * 3 / 2).await;
        assert_eq!(pings(), 2);
        sleep(SECOND * 7).await;
        assert_eq!(pings(), 2, "it has said that it is alive");
        let _second = request(&bed);
        sleep(SECOND * 5 / 2).await;
        assert_eq!(pings(), 3, "a new request is a new reason to ask");
        sleep(SECOND * 12).await;
        assert_eq!(pings(), 4, "as often as an idle one");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_asked_after_its_time() {
        let bed = bed().await;
        sleep(SECOND * 9).await;
        assert_eq!(bed.pings.load(Relaxed), 1);
        sleep(SECOND * 2).await;
        assert_eq!(bed.pings.load(Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_owes_answers_and_does_not_say_that_it_is_alive_is_dead() {
        let bed = bed().await;
        sleep(SECOND * 5).await;
        bed.alive.store(false, Relaxed);
        let _request = request(&bed);
        let began = Instant::now();
        let closed = bed.established.driver.await.unwrap();
        assert!(matches!(closed, Closed::Silent(_)), "{closed}");
        let took = began.elapsed();
        assert!((5 * SECOND..=6 * SECOND).contains(&took), "{took:?}");
    }
}
