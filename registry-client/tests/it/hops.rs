//! What a call does to the calls that are made to answer it.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{Request, Response, Uri};
use registry_client::{
    Channel, Mesh, ServerConfig,
    instance::Instance,
    policy::{MethodConfig, ServiceConfig, budget::BudgetConfig, retry::RetryPolicy},
    resolve::fixed::FixedResolver,
    telemetry::Explain,
    testing::Reply,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{Code, body::Body, server::NamedService};
use tower_service::Service;

use crate::{
    channel::{GET, WATCH, call, channel, echo, explained, scripted, send, start, timeout_micros},
    server::within,
};

/// Answers every call with the response of the next server.
#[derive(Clone)]
struct Relay {
    next: Channel,
    optional: Option<Channel>,
}

impl NamedService for Relay {
    const NAME: &'static str = "test.v1.Peer";
}

impl Service<Request<Body>> for Relay {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (mut next, optional) = (self.next.clone(), self.optional.clone());
        // None of the incoming metadata is passed on by hand.
        let onwards = Request::post(Uri::try_from(request.uri().path()).unwrap())
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .body(request.into_body())
            .unwrap();
        Box::pin(async move {
            if let Some(optional) = optional {
                call(&optional, GET).await.unwrap_err();
            }
            Ok(match next.call(onwards).await {
                Ok(answer) => answer.map(Body::new),
                Err(status) => status.into_http(),
            })
        })
    }
}

/// A server that relays to `next`, as an instance. Ends with its handle.
async fn relay(next: Channel) -> (Instance, JoinHandle<()>) {
    relay_beside(next, None).await
}

/// The same, which first calls `optional` and goes on without it.
async fn relay_beside(next: Channel, optional: Option<Channel>) -> (Instance, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let mesh = Mesh::builder().resolver(FixedResolver::with([])).build().unwrap();
    let server = mesh.serve("relay").config(ServerConfig::default()).add_service(Relay { next, optional });
    let running = tokio::spawn(async move {
        server.run(listener, std::future::pending()).await.unwrap();
    });
    (Instance::new("relay", address.into()), running)
}

#[tokio::test]
async fn what_is_left_of_a_call_is_all_that_the_calls_made_for_it_get() {
    let peer = echo().await;
    let below = channel(&FixedResolver::with([peer.instance("bottom")]), |_| {});
    let (instance, _running) = relay(below).await;
    let top = channel(&FixedResolver::with([instance]), |_| {});

    for path in [GET, WATCH] {
        let mut request = tonic::Request::new("hello".to_owned());
        request.set_timeout(Duration::from_secs(3));
        within(send(&top, path, request)).await.unwrap();
        let heads = peer.heads();
        let micros = timeout_micros(&heads.last().unwrap().headers()["grpc-timeout"]);
        // Each clock but the first has 2 ms more than its caller's, once for all.
        assert!((1..3_002_000).contains(&micros), "{path}: {micros}");
    }
}

#[tokio::test]
async fn a_call_ends_on_every_hop_when_its_time_is_up() {
    let peer = start(Reply::Hang).await;
    let below = channel(&FixedResolver::with([peer.instance("bottom")]), |_| {});
    let (instance, _running) = relay(below).await;
    let top = channel(&FixedResolver::with([instance]), |_| {});

    let mut request = tonic::Request::new("hello".to_owned());
    request.set_timeout(Duration::from_millis(300));
    let began = Instant::now();
    let failed = within(send(&top, GET, request)).await.unwrap_err();
    assert_eq!(failed.code(), Code::DeadlineExceeded, "{failed}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    within(peer.until(|seen| seen.resets == 1)).await;
}

#[tokio::test]
async fn a_failure_that_was_retried_on_one_layer_is_not_retried_on_the_one_above() {
    let peer = start(Reply::fail(Code::Unavailable)).await;
    let bottom = channel(&FixedResolver::with([peer.instance("bottom")]), |_| {});
    let (middle, _middle) = relay(bottom).await;
    let middle = channel(&FixedResolver::with([middle]), |_| {});
    let (upper, _upper) = relay(middle).await;
    let top = channel(&FixedResolver::with([upper]), |_| {});

    let (request, explain): (_, Explain) = explained();
    let failed = within(send(&top, GET, request)).await.unwrap_err();
    assert_eq!(failed.code(), Code::Unavailable, "{failed}");
    assert_eq!(peer.counts().requests, 3, "the lowest layer retries");
    assert_eq!(explain.attempts().len(), 1, "{:?}", explain.attempts());
}

#[tokio::test]
async fn a_dead_optional_dependency_does_not_stop_retries_of_what_fails_otherwise() {
    let dead = start(Reply::fail(Code::Unavailable)).await;
    let dead = channel(&FixedResolver::with([dead.instance("dead")]), |_| {});
    let peer = scripted(|n| if n % 2 == 0 { Reply::fail(Code::Unavailable) } else { Reply::Echo }).await;
    let bottom = channel(&FixedResolver::with([peer.instance("bottom")]), |config| {
        let mut never = MethodConfig::default();
        never.retry = Some(RetryPolicy::off());
        config.service_config = ServiceConfig::default().for_all(never);
    });
    let (middle, _middle) = relay_beside(bottom, Some(dead)).await;
    let top = channel(&FixedResolver::with([middle]), |config| {
        // Each of the calls is sent twice.
        config.service_config.budget = BudgetConfig::Share { ratio: 0.2, min_per_second: 10 };
    });
    for _ in 0..10 {
        assert_eq!(within(call(&top, GET)).await.unwrap(), "hello");
    }
}
