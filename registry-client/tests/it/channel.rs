//! What a channel promises its caller, whatever an instance does.

use std::time::{Duration, Instant};

use prost_types::{
    FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, MethodOptions, ServiceDescriptorProto,
    method_options::IdempotencyLevel,
};
use registry_client::{
    Channel, ChannelConfig,
    balance::Balancer,
    instance::{Instance, InstanceHealth},
    policy::Methods,
    resolve::fixed::FixedResolver,
    telemetry::Explain,
    testing::{FaultyServer, FaultyService, Reply},
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Request, Status, client::Grpc};
use tonic_prost::ProstCodec;

use crate::{health::Freezer, server::within};

/// Not safe to send twice.
pub(crate) const ADD: &str = "/test.v1.Peer/Add";
/// Marked `NO_SIDE_EFFECTS`.
pub(crate) const GET: &str = "/test.v1.Peer/Get";

/// `NO_SIDE_EFFECTS`, and its response is a stream.
pub(crate) const WATCH: &str = "/test.v1.Peer/Watch";

pub(crate) fn methods() -> Methods {
    let method = |name: &str, level: IdempotencyLevel| MethodDescriptorProto {
        name: Some(name.into()),
        options: Some(MethodOptions { idempotency_level: Some(level.into()), ..Default::default() }),
        ..Default::default()
    };
    let get = method("Get", IdempotencyLevel::NoSideEffects);
    let put = MethodDescriptorProto { name: Some("Put".into()), ..Default::default() };
    let watch = MethodDescriptorProto {
        server_streaming: Some(true),
        ..method("Watch", IdempotencyLevel::NoSideEffects)
    };
    let service = ServiceDescriptorProto {
        name: Some("Peer".into()),
        method: vec![get, put, watch],
        ..Default::default()
    };
    let file =
        FileDescriptorProto { package: Some("test.v1".into()), service: vec![service], ..Default::default() };
    let mut methods = Methods::default();
    methods.describe(&prost::Message::encode_to_vec(&FileDescriptorSet { file: vec![file] })).unwrap();
    methods
}

pub(crate) fn config(change: impl FnOnce(&mut ChannelConfig)) -> ChannelConfig {
    let mut config = ChannelConfig::default();
    config.deadline = Duration::from_secs(10);
    config.balancer = Balancer::RoundRobin;
    config.max_response_bytes = 64 << 20;
    change(&mut config);
    config
}

pub(crate) fn channel(resolver: &FixedResolver, change: impl FnOnce(&mut ChannelConfig)) -> Channel {
    Channel::new("peer".parse().unwrap(), resolver, methods(), config(change))
}

pub(crate) async fn call(channel: &Channel, path: &'static str) -> Result<String, Status> {
    send(channel, path, Request::new("hello".to_owned())).await
}

pub(crate) async fn send(
    channel: &Channel,
    path: &'static str,
    request: Request<String>,
) -> Result<String, Status> {
    let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(64 << 20);
    grpc.ready().await?;
    let path = http::uri::PathAndQuery::from_static(path);
    Ok(grpc.unary(request, path, ProstCodec::default()).await?.into_inner())
}

/// A `grpc-timeout` in microseconds.
pub(crate) fn timeout_micros(value: &http::HeaderValue) -> u128 {
    registry_client::policy::timeout::parse(value.as_bytes()).unwrap().as_micros()
}

/// A request that records its attempts.
pub(crate) fn explained() -> (Request<String>, Explain) {
    let (mut request, explain) = (Request::new("hello".to_owned()), Explain::default());
    request.extensions_mut().insert(explain.clone());
    (request, explain)
}

pub(crate) async fn start(service: impl Into<FaultyService>) -> FaultyServer {
    FaultyServer::start(service).await.unwrap()
}

pub(crate) async fn echo() -> FaultyServer {
    start(Reply::Echo).await
}

pub(crate) async fn scripted(script: impl Fn(u64) -> Reply + Send + Sync + 'static) -> FaultyServer {
    start(FaultyService::scripted(script)).await
}

/// A channel over these peers, with a connection to each.
pub(crate) async fn connected(
    peers: &[&FaultyServer],
    change: impl FnOnce(&mut ChannelConfig),
) -> (Channel, FixedResolver) {
    let instance = |(n, peer): (usize, &&FaultyServer)| peer.instance(&n.to_string());
    let resolver = FixedResolver::with(peers.iter().enumerate().map(instance));
    let channel = channel(&resolver, change);
    let ready = async {
        // The instance of a call shows which ones are ready.
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() < peers.len() {
            let (request, explain) = explained();
            let _ = send(&channel, "/test.v1.Peer/Warm", request).await;
            seen.extend(explain.attempts().into_iter().map(|attempt| attempt.instance));
            tokio::task::yield_now().await;
        }
    };
    within(ready).await;
    (channel, resolver)
}

#[tokio::test]
async fn round_robin_gives_four_instances_the_same_number_of_calls() {
    let peers = (0..4).map(|_| echo());
    let peers = futures_util::future::join_all(peers).await;
    let (channel, _resolver) = connected(&peers.iter().collect::<Vec<_>>(), |_| {}).await;
    let before: Vec<_> = peers.iter().map(|peer| peer.counts().requests).collect();
    for _ in 0..100 {
        call(&channel, ADD).await.unwrap();
    }
    let served: Vec<_> =
        peers.iter().zip(before).map(|(peer, before)| peer.counts().requests - before).collect();
    assert_eq!(served, [25; 4]);
}

#[tokio::test]
async fn a_call_to_nobody_ends_at_its_deadline_and_says_that_the_registry_lists_none() {
    let resolver = FixedResolver::with([]);
    let channel = channel(&resolver, |c| c.deadline = Duration::from_millis(200));
    let began = Instant::now();
    let failed = call(&channel, GET).await.unwrap_err();
    assert_eq!(failed.code(), Code::DeadlineExceeded);
    assert!(failed.message().contains("registry lists none"), "{failed}");
    assert!((200..1_000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_call_that_fails_fast_says_why_nobody_is_there() {
    for (resolver, words) in [
        (FixedResolver::with([]), "the registry lists none"),
        (
            FixedResolver::with([Instance::new("dead", "127.0.0.1:1".parse().unwrap())]),
            "all 1 are failing: dead: Connection refused",
        ),
        (
            {
                let resolver = FixedResolver::unresolved();
                resolver.fail("Consul at 127.0.0.1:8500 cannot be reached");
                resolver
            },
            "never resolved: Consul at 127.0.0.1:8500 cannot be reached",
        ),
    ] {
        let channel = channel(&resolver, |c| c.fail_fast = true);
        let failed = within(call(&channel, GET)).await.unwrap_err();
        assert_eq!(failed.code(), Code::Unavailable);
        assert!(failed.message().contains(words), "{failed}");
    }
}

#[tokio::test]
async fn a_waiting_call_is_sent_as_soon_as_an_instance_appears() {
    let peer = echo().await;
    let resolver = FixedResolver::unresolved();
    let channel = channel(&resolver, |_| {});
    let waiting = tokio::spawn(async move { call(&channel, ADD).await });
    tokio::task::yield_now().await;
    resolver.set([peer.instance("late")]);
    assert_eq!(within(waiting).await.unwrap().unwrap(), "hello");
}

#[tokio::test]
async fn a_deadline_ends_a_call_that_is_never_answered_and_resets_its_stream() {
    for reply in [Reply::Hang, Reply::HangAfterHead] {
        let peer = start(reply).await;
        let resolver = FixedResolver::with([peer.instance("mute")]);
        let channel = channel(&resolver, |_| {});
        let mut request = Request::new(String::new());
        request.set_timeout(Duration::from_millis(200));
        let began = Instant::now();
        let failed = send(&channel, GET, request).await.unwrap_err();
        assert_eq!(failed.code(), Code::DeadlineExceeded, "{failed}");
        assert!(failed.message().contains("mute at 127.0.0.1"), "{failed}");
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        within(peer.until(|seen| seen.resets == 1)).await;
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_resets_its_stream() {
    let peer = start(Reply::Hang).await;
    let resolver = FixedResolver::with([peer.instance("mute")]);
    let channel = channel(&resolver, |_| {});
    let caller = channel.clone();
    let abandoned = tokio::spawn(async move { call(&caller, GET).await });
    within(async {
        while peer.counts().requests == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    abandoned.abort();
    within(peer.until(|seen| seen.resets == 1)).await;
}

#[tokio::test]
async fn the_time_that_is_left_is_reported_to_the_server() {
    let peer = scripted(|n| if n == 0 { Reply::fail(Code::Unavailable) } else { Reply::Echo }).await;
    let resolver = FixedResolver::with([peer.instance("one")]);
    let channel = channel(&resolver, |_| {});
    call(&channel, GET).await.unwrap();
    let heads: Vec<_> = peer.heads().into_iter().map(|request| request.headers().clone()).collect();
    let micros = |n: usize| timeout_micros(&heads[n]["grpc-timeout"]);
    assert!((9_000_000..=10_002_000).contains(&micros(0)), "what is left, and a little more: {}", micros(0));
    assert!(!heads[0].contains_key("grpc-previous-rpc-attempts"));
    assert!(micros(1) < micros(0), "the second attempt has less time");
    assert_eq!(heads[1]["grpc-previous-rpc-attempts"], "1");
}

#[tokio::test]
async fn an_idempotent_call_moves_on_from_an_instance_that_fails_it() {
    for reply in [Reply::fail(Code::Unavailable), Reply::Close] {
        // Fails real calls only: the first calls show that it is connected.
        let bad = scripted(move |n| if n < 8 { Reply::Echo } else { reply.clone() }).await;
        let good = echo().await;
        let (channel, _resolver) = connected(&[&bad, &good], |_| {}).await;
        let mut moved = 0;
        for _ in 0..40 {
            let (request, explain) = explained();
            assert_eq!(send(&channel, GET, request).await.unwrap(), "hello");
            let attempts = explain.attempts();
            if let [first, .., last] = &attempts[..] {
                assert_ne!(first.instance, last.instance, "{attempts:?}");
                moved += 1;
            }
        }
        assert!(moved > 0, "the bad instance got no call");
    }
}

#[tokio::test]
async fn a_call_that_is_not_idempotent_is_not_repeated_when_it_may_have_been_carried_out() {
    for reply in [Reply::fail(Code::Unavailable), Reply::Close] {
        let bad = start(reply).await;
        let resolver = FixedResolver::with([bad.instance("bad")]);
        let channel = channel(&resolver, |_| {});
        let failed = call(&channel, ADD).await.unwrap_err();
        assert_eq!(failed.code(), Code::Unavailable, "{failed}");
        assert_eq!(bad.counts().requests, 1);
    }
}

#[tokio::test]
async fn a_refused_stream_is_repeated_whatever_the_method() {
    let peer = scripted(|n| if n == 0 { Reply::Refuse } else { Reply::Echo }).await;
    let resolver = FixedResolver::with([peer.instance("busy")]);
    let channel = channel(&resolver, |_| {});
    assert_eq!(call(&channel, ADD).await.unwrap(), "hello");
    assert_eq!(peer.counts().requests, 2);
}

#[tokio::test]
async fn an_idempotent_call_has_at_most_three_attempts() {
    let peer = start(Reply::fail(Code::Unavailable)).await;
    let resolver = FixedResolver::with([peer.instance("down")]);
    let channel = channel(&resolver, |_| {});
    let failed = call(&channel, GET).await.unwrap_err();
    assert_eq!((failed.code(), peer.counts().requests), (Code::Unavailable, 3));
}

#[tokio::test]
async fn a_server_that_goes_away_fails_no_call_of_any_kind() {
    let peer = echo().await;
    let (channel, _resolver) = connected(&[&peer], |_| {}).await;
    peer.go_away();
    for _ in 0..50 {
        call(&channel, ADD).await.unwrap();
    }
    assert!(peer.counts().connections >= 2, "a new connection followed the old one");
}

#[tokio::test]
async fn an_instance_that_comes_back_is_used_again() {
    let peer = echo().await;
    let (channel, resolver) = connected(&[&peer], |c| c.deadline = Duration::from_millis(500)).await;
    let address = peer.address();
    drop(peer);
    // Long enough that the next try is seconds away.
    let down = Instant::now();
    while down.elapsed() < Duration::from_secs(3) {
        call(&channel, GET).await.unwrap_err();
    }
    let peer = FaultyServer::start_at(address, Reply::Echo).await.unwrap();
    // News from the registry cuts the wait for that try short.
    let mut news = peer.instance("0");
    news.health = InstanceHealth::Critical;
    resolver.set([news.clone()]);
    // On this one thread the pool takes it in when the test gives way.
    tokio::task::yield_now().await;
    news.health = InstanceHealth::Passing;
    resolver.set([news]);
    assert_eq!(call(&channel, GET).await.unwrap(), "hello");
}

#[tokio::test]
async fn a_critical_instance_is_used_only_when_there_is_no_other() {
    let (well, ill) = (echo().await, echo().await);
    let (channel, resolver) = connected(&[&well, &ill], |_| {}).await;
    let mut critical = ill.instance("1");
    critical.health = InstanceHealth::Critical;
    resolver.set([well.instance("0"), critical.clone()]);
    let until_avoided = async {
        while {
            let before = ill.counts().requests;
            for _ in 0..4 {
                call(&channel, GET).await.unwrap();
            }
            ill.counts().requests > before
        } {}
    };
    within(until_avoided).await;
    resolver.set([critical]);
    drop(well);
    assert_eq!(within(call(&channel, GET)).await.unwrap(), "hello");
}

#[tokio::test]
async fn an_instance_that_left_the_registry_but_answers_is_kept() {
    let peer = echo().await;
    let (channel, resolver) = connected(&[&peer], |_| {}).await;
    resolver.set([]);
    for _ in 0..100 {
        call(&channel, ADD).await.unwrap();
    }
    assert_eq!(peer.counts().connections, 1);
}

#[tokio::test]
async fn a_socket_that_accepts_and_says_nothing_is_not_ready() {
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = mute.local_addr().unwrap().into();
    let resolver = FixedResolver::with([Instance::new("mute", address)]);
    let channel = channel(&resolver, |c| {
        c.connect_timeout = Duration::from_millis(100);
        c.deadline = Duration::from_millis(800);
    });
    let failed = call(&channel, GET).await.unwrap_err();
    assert!(failed.message().contains("mute: no answer within 100ms"), "{failed}");
}

#[tokio::test]
async fn an_instance_that_hangs_leaves_the_ready_set_without_a_failed_call() {
    let well = echo().await;
    let (mut freezer, hung) = Freezer::start().await;
    let (channel, _resolver) = connected(&[&well, &hung], |c| {
        c.keepalive_time = Duration::from_millis(100);
        c.keepalive_timeout = Duration::from_millis(100);
    })
    .await;
    freezer.freeze();
    let until_out = async {
        while {
            let (request, explain) = explained();
            send(&channel, GET, request).await.unwrap();
            explain.attempts()[0].why.starts_with("round_robin of 2")
        } {}
    };
    within(until_out).await;
}

#[tokio::test]
async fn details_that_are_not_base64_do_not_harm_the_caller() {
    let rude = http::Response::builder()
        .header("content-type", "application/grpc")
        .header("grpc-status", "3")
        .header("grpc-status-details-bin", "!");
    let peer = start(Reply::Head(rude.body(()).unwrap())).await;
    let resolver = FixedResolver::with([peer.instance("rude")]);
    let failed = call(&channel(&resolver, |_| {}), GET).await.unwrap_err();
    assert_eq!((failed.code(), failed.details()), (Code::InvalidArgument, &b""[..]));
}

#[tokio::test]
async fn large_messages_pass_both_ways_and_give_the_window_back() {
    let peer = scripted(|n| if n % 2 == 0 { Reply::Echo } else { Reply::Message(60_000) }).await;
    let resolver = FixedResolver::with([peer.instance("big")]);
    let channel = channel(&resolver, |_| {});
    let large = "y".repeat(12 << 20);
    assert_eq!(send(&channel, ADD, Request::new(large.clone())).await.unwrap(), large);
    // Answers below the step in which room is given back, many times the
    // connection's window together.
    for _ in 0..300 {
        within(call(&channel, ADD)).await.unwrap();
    }
}

#[tokio::test]
async fn both_sides_of_a_stream_may_speak_in_turn() {
    let peer = echo().await;
    let resolver = FixedResolver::with([peer.instance("one")]);
    let mut grpc = Grpc::new(channel(&resolver, |_| {}));
    grpc.ready().await.unwrap();
    let (say, said) = mpsc::channel(1);
    let path = http::uri::PathAndQuery::from_static("/test.v1.Peer/Chat");
    say.send("0".to_owned()).await.unwrap();
    let request = Request::new(ReceiverStream::new(said));
    let answer = grpc.streaming(request, path, ProstCodec::<String, String>::default());
    let mut received = within(answer).await.unwrap().into_inner();
    for turn in 1..50 {
        assert_eq!(within(received.next()).await.unwrap().unwrap(), (turn - 1).to_string());
        say.send(turn.to_string()).await.unwrap();
    }
    drop(say);
    assert_eq!(within(received.next()).await.unwrap().unwrap(), "49");
    assert!(within(received.next()).await.is_none());
}

#[tokio::test]
async fn a_stream_far_larger_than_any_window_arrives_whole_and_in_order() {
    let peer = echo().await;
    let resolver = FixedResolver::with([peer.instance("one")]);
    let mut grpc = Grpc::new(channel(&resolver, |_| {}));
    grpc.ready().await.unwrap();
    // Many frames, each larger than the 64 KiB that a stream may begin with.
    let message = |n: usize| format!("{n:06}").repeat(15_000);
    let request = Request::new(tokio_stream::iter((0..60).map(message)));
    let path = http::uri::PathAndQuery::from_static("/test.v1.Peer/Chat");
    let answer = grpc.streaming(request, path, ProstCodec::<String, String>::default());
    let mut received = within(answer).await.unwrap().into_inner();
    for n in 0..60 {
        assert!(
            within(received.next()).await.unwrap().unwrap() == message(n),
            "message {n} is not the one sent"
        );
    }
    assert!(within(received.next()).await.is_none());
}

#[tokio::test]
async fn a_stream_that_nobody_bounded_outlives_the_default_deadline() {
    let peer = start(Reply::HangAfterHead).await;
    let resolver = FixedResolver::with([peer.instance("one")]);
    let mut grpc = Grpc::new(channel(&resolver, |c| c.deadline = Duration::from_millis(100)));
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/test.v1.Peer/Watch");
    let request = Request::new(String::new());
    let codec = ProstCodec::<String, String>::default();
    let mut watch = grpc.server_streaming(request, path, codec).await.unwrap().into_inner();
    let quiet = tokio::time::timeout(Duration::from_millis(300), watch.message()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    assert!(!peer.heads()[0].headers().contains_key("grpc-timeout"));
}
