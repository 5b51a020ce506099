//! What the fault kit promises those who test with it.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use registry_client::{
    Channel, ChannelConfig,
    policy::Methods,
    resolve::fixed::FixedResolver,
    testing::{Direction, Fault, FaultProxy, FaultyServer, HealthReply, Reply},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tonic::{Code, Request, Status, client::Grpc};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_prost::ProstCodec;

use crate::server::within;

fn channel(server: &FaultyServer) -> Channel {
    let resolver = FixedResolver::with([server.instance("one")]);
    Channel::new("echo".parse().unwrap(), &resolver, Methods::default(), ChannelConfig::default())
}

async fn call(channel: &Channel) -> Result<String, Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await?;
    let path = http::uri::PathAndQuery::from_static("/test.v1.Kit/Say");
    Ok(within(grpc.unary(Request::new("hello".to_owned()), path, ProstCodec::default())).await?.into_inner())
}

#[tokio::test]
async fn a_server_fails_the_share_of_calls_that_is_configured() {
    let server = FaultyServer::start(Reply::Echo).await.unwrap();
    let channel = channel(&server);
    server.set_share(0.25, Reply::fail(Code::Internal));
    let mut failed = 0;
    for _ in 0..40 {
        failed += usize::from(call(&channel).await.is_err());
    }
    assert_eq!((failed, server.counts().requests), (10, 40));
}

#[tokio::test]
async fn a_health_watch_reports_every_change_and_counts_as_no_request() {
    let server = FaultyServer::start(Reply::Hang).await.unwrap();
    let mut client = HealthClient::new(channel(&server));
    let mut watch = within(client.watch(HealthCheckRequest::default())).await.unwrap().into_inner();
    for (health, status) in
        [(HealthReply::Serving, 1), (HealthReply::NotServing, 2), (HealthReply::ServiceUnknown, 3)]
    {
        server.set_health(health);
        assert_eq!(within(watch.message()).await.unwrap().unwrap().status, status);
    }
    server.set_health(HealthReply::Unimplemented);
    assert_eq!(within(watch.message()).await.unwrap_err().code(), Code::Unimplemented);
    let refused = within(client.check(HealthCheckRequest::default())).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert_eq!(server.counts().requests, 0);
}

#[tokio::test]
async fn a_storm_of_goaway_costs_connections_and_no_call() {
    let server = FaultyServer::start(Reply::GoAway).await.unwrap();
    let channel = channel(&server);
    for _ in 0..3 {
        assert_eq!(call(&channel).await.unwrap(), "hello");
    }
    assert!(server.counts().connections >= 3, "{:?}", server.counts());
}

#[tokio::test]
async fn pushback_is_reported_in_the_trailers() {
    let server = FaultyServer::start(Reply::pushback(Code::Aborted, Some(Duration::from_millis(20)))).await;
    let server = server.unwrap();
    let failed = call(&channel(&server)).await.unwrap_err();
    assert_eq!(failed.metadata().get("grpc-retry-pushback-ms").unwrap(), "20");
    server.set(Reply::pushback(Code::Aborted, None));
    let failed = call(&channel(&server)).await.unwrap_err();
    assert_eq!(failed.metadata().get("grpc-retry-pushback-ms").unwrap(), "-1");
}

/// A TCP server that sends back what it gets.
async fn tcp_echo() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = socket.split();
                // Ends with the connection, in whatever way.
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

async fn through(proxy: &FaultProxy) -> TcpStream {
    let mut socket = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(echoed(&mut socket, b"first").await, b"first");
    socket
}

async fn echoed(socket: &mut TcpStream, words: &[u8]) -> Vec<u8> {
    socket.write_all(words).await.unwrap();
    let mut received = vec![0; words.len()];
    within(socket.read_exact(&mut received)).await.unwrap();
    received
}

/// Returns whether nothing comes for a while.
async fn is_silent(socket: &mut TcpStream) -> bool {
    timeout(Duration::from_millis(100), socket.read_u8()).await.is_err()
}

#[tokio::test]
async fn a_delay_holds_for_both_ways() {
    let proxy = FaultProxy::start(tcp_echo().await).await.unwrap();
    let mut socket = through(&proxy).await;
    proxy.set(Fault::Delay(Duration::from_millis(60))).await;
    let began = Instant::now();
    assert_eq!(echoed(&mut socket, b"late").await, b"late");
    assert!(began.elapsed() >= Duration::from_millis(120), "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_a_black_hole_held_arrives_when_it_is_over() {
    for way in [Direction::Both, Direction::ToServer, Direction::ToClient] {
        let proxy = FaultProxy::start(tcp_echo().await).await.unwrap();
        let mut socket = through(&proxy).await;
        proxy.set(Fault::BlackHole(way)).await;
        let mut newer = TcpStream::connect(proxy.address()).await.unwrap();
        socket.write_all(b"held").await.unwrap();
        newer.write_all(b"too").await.unwrap();
        assert!(is_silent(&mut socket).await && is_silent(&mut newer).await, "{way:?}");
        proxy.set(Fault::None).await;
        let (mut held, mut too) = ([0; 4], [0; 3]);
        within(socket.read_exact(&mut held)).await.unwrap();
        within(newer.read_exact(&mut too)).await.unwrap();
        assert_eq!((&held, &too), (b"held", b"too"), "{way:?}");
    }
}

#[tokio::test]
async fn nobody_is_let_in_where_no_packet_arrives() {
    let proxy = FaultProxy::start(tcp_echo().await).await.unwrap();
    let mut socket = through(&proxy).await;
    proxy.set(Fault::Unreachable).await;
    let late = timeout(Duration::from_millis(300), TcpStream::connect(proxy.address())).await;
    assert!(late.is_err(), "{late:?}");
    socket.write_all(b"held").await.unwrap();
    assert!(is_silent(&mut socket).await);
    proxy.set(Fault::None).await;
    within(through(&proxy)).await;
}

#[tokio::test]
async fn a_half_open_connection_takes_and_never_gives() {
    let proxy = FaultProxy::start(tcp_echo().await).await.unwrap();
    let mut socket = through(&proxy).await;
    proxy.set(Fault::HalfOpen).await;
    let mut newer = TcpStream::connect(proxy.address()).await.unwrap();
    newer.write_all(b"anyone?").await.unwrap();
    socket.write_all(b"anyone?").await.unwrap();
    assert!(is_silent(&mut socket).await && is_silent(&mut newer).await);
    proxy.set(Fault::None).await;
    assert!(is_silent(&mut socket).await, "the server has forgotten it");
    within(through(&proxy)).await;
}

#[tokio::test]
async fn a_connection_is_cut_after_exactly_so_many_bytes() {
    let proxy = FaultProxy::start(tcp_echo().await).await.unwrap();
    let mut socket = through(&proxy).await;
    proxy.set(Fault::CutAfter(150)).await;
    // A hundred pass to the server, and fifty come back.
    socket.write_all(&[7; 100]).await.unwrap();
    let mut received = Vec::new();
    let end = within(socket.read_to_end(&mut received)).await;
    assert_eq!((received.len(), end.unwrap_err().kind()), (50, ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_reset_is_reported_to_the_client() {
    let proxy = FaultProxy::start(tcp_echo().await).await.unwrap();
    let mut socket = through(&proxy).await;
    proxy.reset();
    assert_eq!(within(socket.read_u8()).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    within(through(&proxy)).await;
}
