//! Connections that have become too old.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use registry_client::{Channel, ChannelConfig, policy::Methods, resolve::fixed::FixedResolver};
use tokio::net::{TcpListener, TcpStream};
use tonic::{Code, Request, client::Grpc};
use tonic_prost::ProstCodec;

use crate::{
    scripted::Connection,
    server::{Running, within},
};

const AGE: Duration = Duration::from_millis(200);

#[tokio::test]
async fn an_old_connection_is_sent_goaway_and_its_calls_finish() {
    let server = Running::start(|config| config.max_connection_age = Some(AGE)).await;
    let begun = Instant::now();
    let connection = Connection::open(server.address).await;
    let held = {
        let connection = connection.clone();
        tokio::spawn(async move { connection.call("test.v1.Scripted/Hold", &[]).await })
    };
    within(server.service.begun.acquire()).await.unwrap().forget();
    within(connection.until_closed()).await;
    assert!(begun.elapsed() >= AGE.mul_f64(0.9), "after {:?}", begun.elapsed());

    server.service.release.add_permits(1);
    let (status, said) = within(held).await.unwrap().unwrap();
    assert_eq!((status.code(), said.as_str()), (Code::Ok, "hello"));
    assert_eq!(Connection::open(server.address).await.echo().await, "hello");
}

#[tokio::test]
async fn what_outlasts_the_grace_is_cut_off() {
    let server = Running::start(|config| {
        config.max_connection_age = Some(AGE);
        config.max_connection_age_grace = Some(AGE);
    })
    .await;
    let begun = Instant::now();
    let held = server.held().await;
    assert!(within(held).await.unwrap().is_err(), "the call was not cut off");
    assert!(begun.elapsed() >= AGE.mul_f64(1.9), "after {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_server_that_drains_does_not_wait_for_the_grace() {
    let server = Running::start(|config| {
        config.max_connection_age = Some(AGE);
        config.drain_timeout = AGE;
    })
    .await;
    let connection = Connection::open(server.address).await;
    let held = {
        let connection = connection.clone();
        tokio::spawn(async move { connection.call("test.v1.Scripted/Hold", &[]).await })
    };
    within(connection.until_closed()).await;
    server.stop.send(()).unwrap();
    within(server.run).await.unwrap().unwrap();
    assert!(within(held).await.unwrap().is_err());
}

#[tokio::test]
async fn a_channel_of_ours_loses_no_call_to_it() {
    let server = Running::start(|config| {
        // A channel connects to an instance once a second at most.
        config.max_connection_age = Some(Duration::from_millis(1_300));
        config.max_connection_age_grace = Some(Duration::from_millis(100));
    })
    .await;
    let (address, opened) = counted(server.address).await;
    let resolver = FixedResolver::new([address]);
    let channel =
        Channel::new("test".parse().unwrap(), &resolver, Methods::default(), ChannelConfig::default());
    let until = Instant::now() + Duration::from_secs(6);
    let (mut calls, mut longest) = (0, Duration::ZERO);
    while Instant::now() < until {
        let mut grpc = Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let path = http::uri::PathAndQuery::from_static("/test.v1.Scripted/Echo");
        let codec = ProstCodec::<String, String>::default();
        let begun = Instant::now();
        let said = within(grpc.unary(Request::new("hello".to_owned()), path, codec)).await;
        assert!(said.is_ok(), "call {calls}: {said:?}");
        calls += 1;
        longest = longest.max(begun.elapsed());
    }
    let opened = opened.load(Relaxed);
    assert!(calls > 100 && opened >= 4, "only {calls} calls on {opened} connections");
    assert!(longest < Duration::from_millis(800), "a call took {longest:?}");
}

/// An address that leads to `server`, and how many connections it has led.
async fn counted(server: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let opened = Arc::<AtomicUsize>::default();
    let count = opened.clone();
    tokio::spawn(async move {
        loop {
            let (mut here, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Relaxed);
            tokio::spawn(async move {
                let mut there = TcpStream::connect(server).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
            });
        }
    });
    (address, opened)
}
