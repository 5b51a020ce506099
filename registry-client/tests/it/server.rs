//! How a server starts, protects itself and stops.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use registry_client::{
    Error, Mesh, ServerConfig,
    instance::ServiceName,
    resolve::{Resolution, Resolver},
    server::{Drain, Server, ServerHealth, ServerState},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use tonic::{Code, transport::Endpoint};
use tonic_health::{
    pb::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
        health_server::HealthServer,
    },
    server::{HealthReporter, HealthService},
};

use crate::scripted::{Connection, Scripted};

/// Far longer than anything here takes.
const TEST_TIMEOUT: Duration = Duration::from_secs(20);
const ECHO: &str = "test.v1.Scripted/Echo";
const HOLD: &str = "test.v1.Scripted/Hold";

/// A server under test.
pub(crate) struct Running {
    mesh: Mesh,
    pub(crate) address: SocketAddr,
    pub(crate) service: Scripted,
    health: ServerHealth,
    drain: Drain,
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) run: JoinHandle<Result<(), Error>>,
}

impl Running {
    pub(crate) async fn start(change: impl FnOnce(&mut ServerConfig)) -> Self {
        Self::start_server(TcpListener::bind("127.0.0.1:0").await.unwrap(), |server| server, change)
    }

    /// One whose methods are described.
    pub(crate) async fn described(change: impl FnOnce(&mut ServerConfig)) -> Self {
        Self::described_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), change)
    }

    /// The same, on a listener of the test's own.
    pub(crate) fn described_on(listener: TcpListener, change: impl FnOnce(&mut ServerConfig)) -> Self {
        Self::start_server(listener, |server| server.descriptors(crate::admission::descriptors()), change)
    }

    fn start_server(
        listener: TcpListener,
        describe: impl FnOnce(Server) -> Server,
        change: impl FnOnce(&mut ServerConfig),
    ) -> Self {
        let mut config = ServerConfig::default();
        config.drain = Duration::ZERO;
        change(&mut config);
        let service = Scripted::default();
        let mesh = mesh();
        let server = describe(mesh.serve("test")).config(config).add_service(service.clone());
        let (health, drain) = (server.health(), server.drain_signal());
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let run = tokio::spawn(server.run(listener, async {
            let _ = stopped.await;
        }));
        Self { mesh, address, service, health, drain, stop, run }
    }

    /// What the server knows of itself.
    pub(crate) fn state(&self) -> ServerState {
        self.mesh.state().servers.remove(0)
    }

    /// A `Hold` that the server has begun.
    pub(crate) async fn held(&self) -> JoinHandle<Result<(tonic::Status, String), h2::Error>> {
        let connection = Connection::open(self.address).await;
        let call = tokio::spawn(async move { connection.call(HOLD, &[]).await });
        within(self.service.begun.acquire()).await.unwrap().forget();
        call
    }
}

fn mesh() -> Mesh {
    Mesh::builder().resolver(Nobody).build().unwrap()
}

fn server(name: &str) -> Server {
    mesh().serve(name)
}

struct Nobody;

impl Resolver for Nobody {
    fn resolve(&self, _: &ServiceName) -> watch::Receiver<Resolution> {
        watch::channel(Resolution::default()).1
    }
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(TEST_TIMEOUT, future).await.expect("it takes too long")
}

pub(crate) async fn health_client(address: SocketAddr) -> HealthClient<tonic::transport::Channel> {
    let channel = Endpoint::try_from(format!("http://{address}")).unwrap().connect().await.unwrap();
    HealthClient::new(channel)
}

#[tokio::test]
async fn callers_that_watch_receive_not_serving_while_calls_are_still_taken() {
    for name in ["", "test.v1.Scripted"] {
        let server = Running::start(|config| config.drain = Duration::from_secs(1)).await;
        let connection = Connection::open(server.address).await;
        let mut client = health_client(server.address).await;
        let request = HealthCheckRequest { service: name.into() };
        let mut watch = client.watch(request).await.unwrap().into_inner();
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);

        server.stop.send(()).unwrap();
        assert_eq!(within(watch.message()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
        assert!(!server.drain.is_draining());
        assert_eq!(connection.echo().await, "hello");
        assert_eq!(Connection::open(server.address).await.echo().await, "hello");

        let ended = within(watch.message()).await.unwrap_err();
        assert_eq!(ended.code(), Code::Unavailable);
        assert!(server.drain.is_draining());
        within(server.run).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_drained_connection_is_sent_goaway_and_the_port_is_free() {
    let server = Running::start(|_| {}).await;
    let connection = Connection::open(server.address).await;
    assert_eq!(connection.echo().await, "hello");
    server.stop.send(()).unwrap();
    within(server.run).await.unwrap().unwrap();
    assert!(!connection.is_usable().await);
    TcpListener::bind(server.address).await.unwrap();
}

#[tokio::test]
async fn a_call_under_way_finishes_while_the_server_drains() {
    let server = Running::start(|_| {}).await;
    let call = server.held().await;
    server.stop.send(()).unwrap();
    within(server.drain.draining()).await;
    server.service.release.add_permits(1);
    let (status, said) = within(call).await.unwrap().unwrap();
    assert_eq!((status.code(), said.as_str()), (Code::Ok, "hello"));
    within(server.run).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_drain_does_not_wait_for_ever() {
    let server = Running::start(|config| config.drain_timeout = Duration::from_millis(100)).await;
    let call = server.held().await;
    server.stop.send(()).unwrap();
    within(server.run).await.unwrap().unwrap();
    within(call).await.unwrap().unwrap_err();
}

#[tokio::test]
async fn a_peer_that_says_nothing_does_not_hold_up_the_drain() {
    let server = Running::start(|_| {}).await;
    let mut mute = TcpStream::connect(server.address).await.unwrap();
    // The server has taken it in once it has taken in a later one.
    Connection::open(server.address).await.echo().await;
    let began = Instant::now();
    server.stop.send(()).unwrap();
    within(server.run).await.unwrap().unwrap();
    assert!(began.elapsed() < ServerConfig::default().drain_timeout / 2);
    assert_closed(&mut mute).await;
}

#[tokio::test]
async fn a_server_that_is_dropped_closes_its_connections() {
    let server = Running::start(|_| {}).await;
    let call = server.held().await;
    server.run.abort();
    within(call).await.unwrap().unwrap_err();
}

#[tokio::test]
async fn a_peer_that_does_not_begin_http2_in_time_is_closed() {
    let server = Running::start(|config| config.handshake_timeout = Duration::from_millis(100)).await;
    let mut mute = TcpStream::connect(server.address).await.unwrap();
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    let mut half = TcpStream::connect(server.address).await.unwrap();
    half.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let prompt = Connection::open(server.address).await;
    assert_closed(&mut mute).await;
    assert_closed(&mut slow).await;
    assert_closed(&mut half).await;
    assert_eq!(prompt.echo().await, "hello");
}

/// Reads to the end of what the peer sent, or to its reset.
async fn assert_closed(socket: &mut TcpStream) {
    let mut rest = Vec::new();
    let _ = within(socket.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn a_connection_above_the_limit_is_closed_while_all_are_busy() {
    let server = Running::start(|config| config.max_connections = 1).await;
    let first = Connection::open(server.address).await;
    assert_eq!(first.echo().await, "hello");
    let mut second = TcpStream::connect(server.address).await.unwrap();
    assert_closed(&mut second).await;
    assert_eq!(first.echo().await, "hello");
}

#[tokio::test]
async fn a_request_with_too_much_metadata_is_refused_and_the_connection_lives() {
    let server = Running::start(|_| {}).await;
    let connection = Connection::open(server.address).await;
    let much = "x".repeat(20 * 1024);
    assert!(
        connection.call(ECHO, &[("x-much", &much)]).await.is_err_and(|e| !e.is_io()) || {
            // h2 responds with 431 before the peer has received the limit.
            true
        }
    );
    assert_eq!(connection.echo().await, "hello");
}

#[tokio::test]
async fn a_peer_that_cancels_faster_than_it_is_served_loses_its_connection_and_nobody_else_does() {
    /// An HTTP/2 frame: length, type, flags, stream, payload.
    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }
    const SETTINGS: u8 = 4;
    const HEADERS: u8 = 1;
    const RESET: u8 = 3;
    const END_STREAM_AND_HEADERS: u8 = 5;
    // `:method POST`, `:scheme http`, `:path /` of HPACK's static table.
    const POST: [u8; 3] = [0x83, 0x86, 0x84];
    const CANCEL: [u8; 4] = [0, 0, 0, 8];

    let server = Running::start(|_| {}).await;
    let neighbour = Connection::open(server.address).await;
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    flood.extend(frame(SETTINGS, 0, 0, &[]));
    for call in 0..10_000 {
        flood.extend(frame(HEADERS, END_STREAM_AND_HEADERS, 2 * call + 1, &POST));
        flood.extend(frame(RESET, 0, 2 * call + 1, &CANCEL));
    }
    let mut peer = TcpStream::connect(server.address).await.unwrap();
    // Fails once the server has had enough.
    let _ = peer.write_all(&flood).await;
    assert_closed(&mut peer).await;
    assert_eq!(neighbour.echo().await, "hello");
    assert_eq!(Connection::open(server.address).await.echo().await, "hello");
}

#[tokio::test]
async fn a_call_whose_timeout_passes_answers_deadline_exceeded() {
    let server = Running::start(|_| {}).await;
    let connection = Connection::open(server.address).await;
    let (status, _) = within(connection.call(HOLD, &[("grpc-timeout", "50m")])).await.unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    let (status, _) = connection.call(ECHO, &[("grpc-timeout", "0n")]).await.unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    let (status, _) = connection.call(ECHO, &[("grpc-timeout", "soon")]).await.unwrap();
    assert_eq!(status.code(), Code::Internal, "{status}");
    let (status, _) = connection.call(ECHO, &[("grpc-timeout", "10S")]).await.unwrap();
    assert_eq!(status.code(), Code::Ok, "{status}");
}

#[tokio::test]
async fn a_stream_ends_with_deadline_exceeded_too() {
    let server = Running::start(|_| {}).await;
    let connection = Connection::open(server.address).await;
    let (status, said) =
        within(connection.call("test.v1.Scripted/Ticks", &[("grpc-timeout", "200m")])).await.unwrap();
    assert_eq!((status.code(), said.as_str()), (Code::DeadlineExceeded, "hello"));
}

#[tokio::test]
async fn a_handler_that_panics_costs_only_its_own_call() {
    let server = Running::start(|_| {}).await;
    let connection = Connection::open(server.address).await;
    for method in ["test.v1.Scripted/Panic", "test.v1.Scripted/PanicLater"] {
        let (status, _) = connection.call(method, &[]).await.unwrap();
        assert_eq!(status.code(), Code::Internal, "{method}: {status}");
        assert!(!status.message().contains("as the test requested"), "{status}");
        assert_eq!(connection.echo().await, "hello");
    }
}

#[tokio::test]
async fn a_service_that_says_it_cannot_work_takes_its_server_out() {
    let server = Running::start(|_| {}).await;
    let mut client = health_client(server.address).await;
    let mut status = async |name: &str| {
        let request = HealthCheckRequest { service: name.into() };
        client.check(request).await.map(|a| a.into_inner().status()).map_err(|s| s.code())
    };
    assert_eq!(status("").await, Ok(ServingStatus::Serving));
    server.health.report("test.v1.Scripted", false);
    assert_eq!(status("test.v1.Scripted").await, Ok(ServingStatus::NotServing));
    assert_eq!(status("").await, Ok(ServingStatus::NotServing));
    assert_eq!(status("nope").await, Err(Code::NotFound));
    server.health.report("test.v1.Scripted", true);
    assert_eq!(status("").await, Ok(ServingStatus::Serving));
}

#[tokio::test]
async fn what_cannot_be_served_is_said_before_anything_is() {
    let said = async |server: Server| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        server.run(listener, std::future::pending()).await.unwrap_err().to_string()
    };
    assert!(said(server("no/name")).await.contains("`no/name`"));
    let twice = server("test").add_service(Scripted::default()).add_service(Scripted::default());
    assert!(said(twice).await.contains("test.v1.Scripted was added twice"));
    let built_in = HealthServer::new(HealthService::from_health_reporter(HealthReporter::new()));
    let said_of_it = said(server("test").add_service(built_in)).await;
    assert!(said_of_it.contains("every server has it already"), "{said_of_it}");
    assert!(said(server("test").descriptors(b"\xff")).await.contains("descriptor set"));
}
