use std::{
    collections::{BTreeSet, VecDeque},
    pin::pin,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{
    super::{
        connect::Connector,
        connection::{Closed, ConnectSettings, Established, connect},
        peer::Peer,
    },
    *,
};
use crate::{
    ChannelConfig,
    instance::{Instance, InstanceId, KEEPALIVE_MIN},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

const PREFACE: usize = 24;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
/// `:status: 200` by its index in HPACK's static table.
const STATUS_200: u8 = 0x88;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// The way a server counts pings that come too soon; each of the three closes
/// the connection at the third.
#[derive(Clone, Copy, Debug)]
enum Counts {
    /// None at all.
    Nothing,
    /// `handlePing` in grpc-go's `internal/transport/http2_server.go`.
    AsGrpcGo,
    /// grpc-java's `KeepAliveEnforcer`.
    AsGrpcJava,
    /// `Chttp2PingAbusePolicy` in gRPC core.
    AsGrpcCore,
}

const STOCK: [Counts; 3] = [Counts::AsGrpcGo, Counts::AsGrpcJava, Counts::AsGrpcCore];

struct Strikes {
    counts: Counts,
    began: Instant,
    /// `None`: the next ping is not too soon.
    last: Option<Instant>,
    strikes: u32,
    /// grpc-go: the server has written since the last ping.
    forgiven: bool,
}

impl Strikes {
    fn new(counts: Counts) -> Self {
        let began = Instant::now();
        let last = matches!(counts, Counts::AsGrpcJava).then_some(began);
        Self { counts, began, last, strikes: 0, forgiven: false }
    }

    /// Returns whether the connection may go on.
    fn ping(&mut self, streams: usize) -> bool {
        let now = Instant::now();
        let interval = if streams == 0 { 2 * HOUR } else { 5 * MINUTE };
        let too_soon = self.last.is_some_and(|last| now < last + interval);
        match self.counts {
            Counts::Nothing => return true,
            Counts::AsGrpcGo => {
                self.last = Some(now);
                if std::mem::take(&mut self.forgiven) {
                    self.strikes = 0;
                    return true;
                }
                self.strikes += u32::from(too_soon);
            }
            Counts::AsGrpcJava => {
                self.strikes += u32::from(too_soon);
                if !too_soon {
                    self.last = Some(now);
                }
            }
            Counts::AsGrpcCore => {
                self.last = Some(now);
                self.strikes += u32::from(too_soon);
            }
        }
        self.strikes <= 2
    }

    /// The server writes headers or data.
    fn write(&mut self) {
        match self.counts {
            Counts::Nothing => {}
            Counts::AsGrpcGo => self.forgiven = true,
            Counts::AsGrpcJava => (self.last, self.strikes) = (Some(self.began), 0),
            Counts::AsGrpcCore => (self.last, self.strikes) = (None, 0),
        }
    }
}

/// The behaviour of a [`Server`], which a test changes while it serves.
#[derive(Default)]
struct Orders {
    /// Pings that came.
    pings: AtomicU32,
    /// True if pings stay without a response.
    hangs: AtomicBool,
    /// True if a request is answered at once.
    answers: AtomicBool,
}

/// A command of a test to a [`Server`].
#[derive(Clone, Debug)]
enum Order {
    /// Sends a byte of data, and the head of the response before it.
    Data,
    /// Ends the oldest stream.
    ResponseBody,
    /// Sends this over and over, and reads nothing any more.
    Flood(Vec<u8>),
}

/// An HTTP/2 server, frame by frame.
struct Server {
    io: DuplexStream,
    strikes: Strikes,
    orders: Arc<Orders>,
    open: VecDeque<u32>,
    begun: BTreeSet<u32>,
}

impl Server {
    async fn run(mut self, mut other: mpsc::UnboundedReceiver<Order>) -> std::io::Result<()> {
        self.io.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
        self.io.read_exact(&mut [0; PREFACE]).await?;
        let mut read = Vec::new();
        loop {
            let mut chunk = [0; 4096];
            tokio::select! {
                biased;
                size = self.io.read(&mut chunk) => {
                    let size = size?;
                    if size == 0 {
                        return Ok(());
                    }
                    read.extend_from_slice(&chunk[..size]);
                    while let Some((kind, flags, stream, payload)) = take_frame(&mut read) {
                        if !self.answer(kind, flags, stream, &payload).await? {
                            return Ok(());
                        }
                    }
                }
                Some(order) = other.recv() => match order {
                    Order::Data => self.data().await?,
                    Order::ResponseBody => self.end_oldest().await?,
                    Order::Flood(frames) => loop {
                        self.io.write_all(&frames).await?;
                    },
                },
            }
        }
    }

    async fn answer(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> std::io::Result<bool> {
        match kind {
            SETTINGS if flags & ACK == 0 => self.io.write_all(&frame(SETTINGS, ACK, 0, &[])).await?,
            PING if flags & ACK == 0 => {
                self.orders.pings.fetch_add(1, Relaxed);
                if !self.strikes.ping(self.open.len()) {
                    let why = [&[0x7f, 255, 255, 255, 0, 0, 0, 11], &b"too_many_pings"[..]].concat();
                    self.io.write_all(&frame(GOAWAY, 0, 0, &why)).await?;
                    // As grpc-go: first the reason, then the end.
                    sleep(SECOND).await;
                    return Ok(false);
                }
                if !self.orders.hangs.load(Relaxed) {
                    self.io.write_all(&frame(PING, ACK, 0, payload)).await?;
                }
            }
            HEADERS => {
                self.open.push_back(stream);
                if self.orders.answers.load(Relaxed) {
                    self.end_oldest().await?;
                }
            }
            RST_STREAM => self.open.retain(|open| *open != stream),
            _ => {}
        }
        Ok(true)
    }

    async fn data(&mut self) -> std::io::Result<()> {
        let Some(stream) = self.open.front().copied() else { return Ok(()) };
        self.strikes.write();
        if self.begun.insert(stream) {
            self.io.write_all(&frame(HEADERS, END_HEADERS, stream, &[STATUS_200])).await?;
        }
        self.io.write_all(&frame(DATA, 0, stream, b"x")).await
    }

    async fn end_oldest(&mut self) -> std::io::Result<()> {
        let Some(stream) = self.open.pop_front() else { return Ok(()) };
        self.strikes.write();
        let flags = END_HEADERS | END_STREAM;
        // A trailer of a new name: `a: b`.
        let (block, begun): (&[u8], _) = match self.begun.contains(&stream) {
            true => (&[0, 1, b'a', 1, b'b'], true),
            false => (&[STATUS_200], false),
        };
        if begun {
            self.begun.remove(&stream);
        }
        self.io.write_all(&frame(HEADERS, flags, stream, block)).await
    }
}

fn take_frame(read: &mut Vec<u8>) -> Option<(u8, u8, u32, Vec<u8>)> {
    let head = *read.first_chunk::<9>()?;
    let size = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    if read.len() < 9 + size {
        return None;
    }
    let payload = read[9..9 + size].to_vec();
    read.drain(..9 + size);
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
    Some((head[3], head[4], stream, payload))
}

/// A pipe on which bytes take `latency` each way.
fn network(latency: Duration) -> (DuplexStream, DuplexStream) {
    if latency.is_zero() {
        return tokio::io::duplex(1 << 16);
    }
    let ((ours, near), (far, theirs)) = (tokio::io::duplex(1 << 16), tokio::io::duplex(1 << 16));
    let ((near_read, near_write), (far_read, far_write)) = (tokio::io::split(near), tokio::io::split(far));
    tokio::spawn(delay(near_read, far_write, latency));
    tokio::spawn(delay(far_read, near_write, latency));
    (ours, theirs)
}

async fn delay(
    mut from: tokio::io::ReadHalf<DuplexStream>,
    mut to: tokio::io::WriteHalf<DuplexStream>,
    latency: Duration,
) {
    let (to_peer, mut from_peer) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((at, bytes)) = from_peer.recv().await {
            sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    });
    let mut chunk = [0; 4096];
    while let Ok(size @ 1..) = from.read(&mut chunk).await {
        let _ = to_peer.send((Instant::now() + latency, chunk[..size].to_vec()));
    }
}

/// A channel's connection to such a server, and what both share.
struct Bed {
    settings: ConnectSettings,
    established: Established,
    orders: Arc<Orders>,
    order: Arc<Mutex<mpsc::UnboundedSender<Order>>>,
}

#[derive(Clone, Copy)]
struct Setup {
    counts: Counts,
    latency: Duration,
    time: Duration,
    timeout: Duration,
    accepts: Option<&'static str>,
}

/// Pinged after 10 s, or 2 s with calls in flight, and given up 4 s later.
const SETUP: Setup = Setup {
    counts: Counts::Nothing,
    latency: Duration::ZERO,
    time: Duration::from_secs(10),
    timeout: Duration::from_secs(4),
    accepts: None,
};

fn peer() -> Peer {
    Peer { id: InstanceId::new("server"), address: "127.0.0.1:1".parse().unwrap() }
}

async fn bed(setup: Setup) -> Bed {
    let orders = Arc::<Orders>::default();
    let order = Arc::new(Mutex::new(mpsc::unbounded_channel().0));
    let shared = (orders.clone(), order.clone());
    let connector = Connector::new(move |_| {
        let (ours, theirs) = network(setup.latency);
        let (to_peer, from_peer) = mpsc::unbounded_channel();
        *shared.1.lock().unwrap() = to_peer;
        let server = Server {
            io: theirs,
            strikes: Strikes::new(setup.counts),
            orders: shared.0.clone(),
            open: VecDeque::new(),
            begun: BTreeSet::new(),
        };
        tokio::spawn(server.run(from_peer));
        async { Ok(ours) }
    });
    let config = ChannelConfig {
        keepalive_time: setup.time,
        keepalive_timeout: setup.timeout,
        ..ChannelConfig::default()
    };
    let service = Arc::new(ServicePings::new("service".parse().unwrap()));
    let pings = Arc::new(InstancePings::new(service));
    let mut instance = Instance::new("server", peer().address);
    instance.meta.extend(setup.accepts.map(|accepts| (KEEPALIVE_MIN.to_owned(), accepts.to_owned())));
    pings.learn(&instance, config.keepalive_min);
    let settings = ConnectSettings { connector, config, pings };
    let established = connected(&settings).await;
    Bed { settings, established, orders, order }
}

async fn connected(settings: &ConnectSettings) -> Established {
    let Ok(established) = connect(peer(), <_>::default(), settings).await else {
        panic!("it acknowledges settings")
    };
    established
}

/// A request that is counted as in flight until it is dropped.
struct Request {
    connection: Arc<super::super::connection::Connection>,
    response: super::super::interim::FinalResponse,
    _request: h2::SendStream<bytes::Bytes>,
}

impl Drop for Request {
    fn drop(&mut self) {
        self.connection.end();
    }
}

impl Bed {
    fn pings(&self) -> u32 {
        self.orders.pings.load(Relaxed)
    }

    fn order(&self, order: Order) {
        self.order.lock().unwrap().send(order).unwrap();
    }

    fn request(&self) -> Request {
        let connection = self.established.connection.clone();
        let head = http::Request::get("http://server/").body(()).unwrap();
        connection.begin();
        let (response, request) = connection.send(head, true).unwrap();
        Request { connection, response, _request: request }
    }

    /// A request that is answered at once, as none before it is.
    async fn call(&self) {
        self.orders.answers.store(true, Relaxed);
        let mut request = self.request();
        timeout(MINUTE, Pin::new(&mut request.response)).await.unwrap().unwrap();
        self.orders.answers.store(false, Relaxed);
    }

    fn is_up(&self) -> bool {
        !self.established.driver.is_finished()
    }

    async fn closed(self) -> Closed {
        self.established.driver.await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn connecting_takes_no_ping() {
    let bed = bed(SETUP).await;
    sleep(SECOND).await;
    assert_eq!(bed.pings(), 0);
}

#[tokio::test(start_paused = true)]
async fn silent_calls_are_pinged_soon_and_once_for_each_silence() {
    let bed = bed(Setup { accepts: Some("1s"), ..SETUP }).await;
    let _first = bed.request();
    sleep(SECOND * 5 / 2).await;
    assert_eq!(bed.pings(), 1);
    sleep(SECOND * 7).await;
    assert_eq!(bed.pings(), 1, "it has said that it is alive");
    let _second = bed.request();
    sleep(SECOND * 5 / 2).await;
    assert_eq!(bed.pings(), 2, "a new request is a new reason to ping");
    sleep(SECOND * 12).await;
    assert_eq!(bed.pings(), 3, "as often as an idle one");
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_pinged_where_its_peer_accepts_that() {
    for (accepts, first, all) in [(Some("1s"), 1, 6), (Some("20s"), 0, 2), (Some("2m"), 0, 0), (None, 0, 0)] {
        let bed = bed(Setup { accepts, ..SETUP }).await;
        sleep(SECOND * 11).await;
        assert_eq!(bed.pings(), first, "{accepts:?}");
        sleep(SECOND * 50).await;
        assert_eq!(bed.pings(), all, "{accepts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_hangs_with_calls_in_flight_is_dead_whoever_it_is() {
    for accepts in [None, Some("100ms")] {
        let bed = bed(Setup { accepts, ..SETUP }).await;
        sleep(SECOND * 5).await;
        bed.orders.hangs.store(true, Relaxed);
        let _request = bed.request();
        let began = Instant::now();
        let closed = bed.closed().await;
        assert!(matches!(closed, Closed::KeepaliveTimeout(_)), "{closed}");
        let took = began.elapsed();
        assert!((5 * SECOND..=6 * SECOND).contains(&took), "{took:?}");
    }
}

/// Uses a connection like callers of this kind, for at least half an hour.
async fn use_it(bed: &Bed, how: &str) {
    let mut held = Vec::new();
    match how {
        "idle" => sleep(5 * HOUR).await,
        "idle after a call" => {
            bed.call().await;
            sleep(5 * HOUR).await;
        }
        "a silent stream" => {
            held.push(bed.request());
            sleep(5 * HOUR).await;
        }
        "calls of 45 s" => {
            for _ in 0..100 {
                held.push(bed.request());
                sleep(45 * SECOND).await;
                bed.order(Order::ResponseBody);
                held.clear();
            }
        }
        "calls now and then" => {
            for _ in 0..100 {
                bed.call().await;
                sleep(23 * SECOND).await;
            }
        }
        "calls that are given up" => {
            for _ in 0..100 {
                held.push(bed.request());
                sleep(15 * SECOND).await;
                held.clear();
                sleep(3 * SECOND).await;
            }
        }
        "more and more silent streams" => {
            for _ in 0..200 {
                held.push(bed.request());
                sleep(9 * SECOND).await;
            }
        }
        "a stream with a message now and then" => {
            held.push(bed.request());
            for _ in 0..200 {
                sleep(17 * SECOND).await;
                bed.order(Order::Data);
            }
        }
        "messages that meet pings" => {
            held.push(bed.request());
            for turn in 0..2_000 {
                sleep(Duration::from_millis(1_900 + turn % 300)).await;
                bed.order(Order::Data);
                held.push(bed.request());
            }
        }
        other => panic!("{other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn servers_that_count_pings_keep_the_connection_whatever_its_callers_do() {
    for counts in STOCK {
        for how in [
            "idle",
            "idle after a call",
            "a silent stream",
            "calls of 45 s",
            "calls now and then",
            "calls that are given up",
            "more and more silent streams",
            "a stream with a message now and then",
            "messages that meet pings",
        ] {
            for (time, limit, latency) in [(10_000, 5_000, 0), (1_000, 500, 0), (10_000, 4_000, 150)] {
                let [time, limit, latency] = [time, limit, latency].map(Duration::from_millis);
                let bed = bed(Setup { counts, latency, time, timeout: limit, accepts: None }).await;
                use_it(&bed, how).await;
                assert!(bed.is_up(), "{counts:?}, {how}, {time:?}: {}", bed.closed().await);
            }
        }
    }
}

/// Calls begin, end and are cancelled in any order.
#[tokio::test(start_paused = true)]
async fn servers_that_count_pings_keep_the_connection_in_any_order_of_events() {
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let latency = Duration::from_millis(random.u64(0..3) * 40);
        let counts = STOCK[random.usize(..3)];
        let bed = bed(Setup { counts, latency, ..SETUP }).await;
        let mut held = Vec::new();
        for _ in 0..300 {
            match random.u8(..10) {
                0..=2 => held.push(bed.request()),
                3..=4 if !held.is_empty() => drop(held.swap_remove(random.usize(..held.len()))),
                5 => bed.order(Order::Data),
                6 => bed.order(Order::ResponseBody),
                _ => {
                    let max_streams = [3, 30, 400][random.usize(..3)];
                    sleep(Duration::from_millis(random.u64(..max_streams * 1000))).await;
                }
            }
            if held.len() > 40 {
                held.clear();
            }
        }
        assert!(bed.is_up(), "seed {seed}, {counts:?}: {}", bed.closed().await);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_server_complains_of_holds_for_the_next_connection_too() {
    for counts in STOCK {
        // It accepts less than its entry says: a proxy is in front of it.
        let mut bed = bed(Setup { counts, accepts: Some("100ms"), ..SETUP }).await;
        sleep(10 * MINUTE).await;
        assert!(!bed.is_up(), "{counts:?}: a ping every 10 s");
        bed.established = connected(&bed.settings).await;
        let _silent = bed.request();
        sleep(5 * HOUR).await;
        assert!(bed.is_up(), "{counts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_reason_of_a_goaway_is_reported_where_the_connection_drains_and_where_it_ends() {
    let complaint = "GOAWAY ENHANCE_YOUR_CALM (too_many_pings)";
    for calls_in_flight in [false, true] {
        let bed = bed(Setup { counts: Counts::AsGrpcGo, accepts: Some("100ms"), ..SETUP }).await;
        let _request = calls_in_flight.then(|| bed.request());
        let Established { connection: _held, draining, driver } = bed.established;
        let goaway = draining.await.ok().flatten().map(|goaway| goaway.to_string());
        assert_eq!(goaway.as_deref(), calls_in_flight.then_some(complaint));
        let closed = driver.await.unwrap().to_string();
        assert_eq!(closed, format!("the peer closed the connection: {complaint}"));
    }
}

/// A peer that sends without end: what it sends, and how.
fn floods() -> [(&'static str, Vec<u8>); 4] {
    // `:status: 103`, as a literal with the name of index 8.
    let informational = [0x08, 3, b'1', b'0', b'3'];
    [
        ("informational heads", frame(HEADERS, END_HEADERS, 1, &informational)),
        ("settings' answers", frame(SETTINGS, ACK, 0, &[])),
        ("unknown frames", frame(0xfa, 0, 0, b"hello")),
        ("window updates", frame(8, 0, 1, &[0, 0, 0, 1])),
    ]
}

#[tokio::test]
async fn a_peer_that_sends_without_end_is_dead_if_it_answers_no_ping() {
    for (what, frames) in floods() {
        let [time, limit] = [400, 200].map(Duration::from_millis);
        let bed = bed(Setup { time, timeout: limit, ..SETUP }).await;
        let _request = bed.request();
        bed.orders.hangs.store(true, Relaxed);
        sleep(Duration::from_millis(20)).await;
        bed.order(Order::Flood(frames.repeat(100)));
        let began = Instant::now();
        let closed = timeout(10 * SECOND, bed.closed()).await.unwrap();
        assert!(!matches!(closed, Closed::Stopped), "{what}: {closed}");
        assert!(began.elapsed() < 3 * SECOND, "{what}: {:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_a_ping_may_be_queued_behind_data_but_not_for_ever() {
    let bed = bed(SETUP).await;
    let _request = bed.request();
    sleep(SECOND / 10).await;
    bed.orders.hangs.store(true, Relaxed);
    let began = Instant::now();
    let order = bed.order.clone();
    let mut closed = pin!(bed.closed());
    loop {
        tokio::select! {
            biased;
            closed = &mut closed => {
                assert!(matches!(closed, Closed::KeepaliveTimeout(waited) if waited == 16 * SECOND), "{closed}");
                break;
            }
            () = sleep(3 * SECOND) => {
                let _ = order.lock().unwrap().send(Order::Data);
            }
        }
    }
    assert!(began.elapsed() < 30 * SECOND, "{:?}", began.elapsed());
}
