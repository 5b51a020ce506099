//! Every way in which an attempt can end: the code that the caller gets, and
//! whether the instance is taken out for it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use registry_client::{
    Channel,
    balance::Balancer,
    telemetry::ChannelState,
    testing::{FaultyServer, Reply},
};
use tonic::{Code, Request};

use crate::{
    channel::{ADD, GET, call, connected, echo, explained, send, start},
    server::within,
};

const GRPC: &str = "application/grpc";

fn head(status: u16, content_type: Option<&'static str>) -> Response<()> {
    let mut head = Response::builder().status(status);
    if let Some(content_type) = content_type {
        head = head.header("content-type", content_type);
    }
    head.body(()).unwrap()
}

fn raw(head: Response<()>, data: &'static [u8], trailers: &[(&'static str, &'static [u8])]) -> Reply {
    let mut map = HeaderMap::new();
    for (name, value) in trailers {
        map.insert(*name, HeaderValue::from_bytes(value).unwrap());
    }
    let trailers = (!trailers.is_empty()).then_some(map);
    Reply::Raw { head, data: Bytes::from_static(data), trailers }
}

fn page(status: u16) -> Reply {
    raw(head(status, Some("text/html")), b"<html>Sorry, try again later</html>", &[])
}

fn messages(data: &'static [u8], trailers: &[(&'static str, &'static [u8])]) -> Reply {
    raw(head(200, Some(GRPC)), data, trailers)
}

/// An empty message.
const MESSAGE: &[u8] = b"\0\0\0\0\0";
const OK: (&str, &[u8]) = ("grpc-status", b"0");

const NOW: Duration = Duration::ZERO;

/// End, code, words, whether the instance is to blame.
type Case = (&'static str, Reply, Code, &'static str, bool);

fn ends() -> Vec<Case> {
    [statuses(), resets(), foreign(), malformed(), late()].concat()
}

/// A status is a status, whatever its cause.
fn statuses() -> Vec<Case> {
    use Code::*;
    vec![
        ("INTERNAL", Reply::fail(Internal), Internal, "as the test says", true),
        ("NOT_FOUND", Reply::fail(NotFound), NotFound, "as the test says", false),
        ("a status in the trailers", messages(b"", &[("grpc-status", b"13")]), Internal, "", true),
        ("an unknown code", messages(b"", &[("grpc-status", b"77")]), Unknown, "", true),
        (
            "a message that is not UTF-8",
            messages(b"", &[("grpc-status", b"5"), ("grpc-message", b"caf\xe9")]),
            NotFound,
            "caf\u{fffd}",
            false,
        ),
        (
            "a message whose escapes are not UTF-8",
            messages(b"", &[("grpc-status", b"8"), ("grpc-message", b"%ff")]),
            ResourceExhausted,
            "\u{fffd}",
            false,
        ),
    ]
}

/// The table of gRPC over HTTP/2, "Errors".
fn resets() -> Vec<Case> {
    use Code::*;
    vec![
        ("RST NO_ERROR", Reply::Reset(0, NOW), Internal, "reset the stream", true),
        ("RST PROTOCOL_ERROR", Reply::Reset(1, NOW), Internal, "reset the stream", true),
        ("RST INTERNAL_ERROR", Reply::Reset(2, NOW), Internal, "reset the stream", true),
        ("RST FLOW_CONTROL_ERROR", Reply::Reset(3, NOW), Internal, "reset the stream", true),
        ("RST REFUSED_STREAM", Reply::Reset(7, NOW), Unavailable, "REFUSED_STREAM", true),
        ("RST CANCEL", Reply::Reset(8, NOW), Cancelled, "reset the stream", true),
        ("RST ENHANCE_YOUR_CALM", Reply::Reset(11, NOW), ResourceExhausted, "reset the stream", true),
        ("RST INADEQUATE_SECURITY", Reply::Reset(12, NOW), PermissionDenied, "reset the stream", true),
        ("RST INTERNAL_ERROR after the head", Reply::ResetAfterHead(2), Internal, "reset the stream", true),
        ("RST CANCEL after the head", Reply::ResetAfterHead(8), Cancelled, "reset the stream", true),
    ]
}

/// What a proxy or another program answers.
fn foreign() -> Vec<Case> {
    use Code::*;
    vec![
        ("a page, HTTP 200", page(200), Unknown, "text/html", true),
        ("a page, HTTP 400", page(400), Internal, "HTTP status 400", true),
        ("a page, HTTP 401", page(401), Unauthenticated, "HTTP status 401", true),
        ("a page, HTTP 403", page(403), PermissionDenied, "HTTP status 403", true),
        ("a page, HTTP 404", page(404), Unimplemented, "HTTP status 404", true),
        ("a page, HTTP 429", page(429), Unavailable, "HTTP status 429", true),
        ("a page, HTTP 500", page(500), Unknown, "HTTP status 500", true),
        ("a page, HTTP 502", page(502), Unavailable, "HTTP status 502", true),
        ("a page, HTTP 503", page(503), Unavailable, "HTTP status 503", true),
        ("a page, HTTP 504", page(504), Unavailable, "HTTP status 504", true),
        ("no content-type", raw(head(200, None), MESSAGE, &[OK]), Unknown, "no content-type", true),
        (
            "gRPC-Web",
            raw(head(200, Some("application/grpc-web")), MESSAGE, &[OK]),
            Unknown,
            "application/grpc-web",
            true,
        ),
    ]
}

/// What gRPC forbids.
fn malformed() -> Vec<Case> {
    use Code::*;
    let encoded = |encoding| {
        let mut head = head(200, Some(GRPC));
        head.headers_mut().insert("grpc-encoding", HeaderValue::from_static(encoding));
        head
    };
    vec![
        ("an end without trailers", messages(MESSAGE, &[]), Internal, "no trailers", true),
        ("a head without anything", messages(b"", &[]), Internal, "no trailers", true),
        (
            "trailers without a status",
            messages(MESSAGE, &[("x-some", b"thing")]),
            Unknown,
            "without a grpc-status",
            true,
        ),
        ("OK without a message", messages(b"", &[OK]), Internal, "no message", true),
        ("OK within a message", messages(b"\0\0\0\0\x09half", &[OK]), Internal, "within a message", true),
        ("two messages", messages(b"\0\0\0\0\0\0\0\0\0\0", &[OK]), Internal, "second message", true),
        ("compressed, unannounced", messages(b"\x01\0\0\0\0", &[OK]), Internal, "compressed", true),
        (
            "compressed, identity",
            raw(encoded("identity"), b"\x01\0\0\0\0", &[OK]),
            Internal,
            "compressed",
            true,
        ),
        ("an encoding that was not accepted", raw(encoded("br"), MESSAGE, &[OK]), Internal, "`br`", true),
        ("a flag that is no flag", messages(b"\x3c\0\0\0\0", &[OK]), Internal, "first byte is 60", true),
        ("no protobuf", messages(b"\0\0\0\0\x02\xff\xff", &[OK]), Internal, "", true),
        ("a message of 65 MiB", messages(b"\0\x04\x10\0\0", &[OK]), ResourceExhausted, "limit", false),
    ]
}

/// What takes too long.
fn late() -> Vec<Case> {
    use Code::*;
    vec![
        ("nothing, ever", Reply::Hang, DeadlineExceeded, "deadline", true),
        ("nothing after the head", Reply::HangAfterHead, DeadlineExceeded, "deadline", true),
        ("nothing for a minute", Reply::Slow(Duration::from_secs(60)), DeadlineExceeded, "deadline", true),
        (
            "the server's timer, a moment before ours",
            Reply::Reset(8, Duration::from_millis(195)),
            DeadlineExceeded,
            "deadline",
            true,
        ),
        ("a closed connection", Reply::Close, Unavailable, "", true),
    ]
}

/// Returns whether the channel has taken out the instance of that index.
fn is_out(state: &ChannelState, n: usize) -> bool {
    state.instances[n].decided_by == Some("outlier")
}

async fn until_out(channel: &Channel, n: usize) {
    while !is_out(&channel.state().unwrap(), n) {
        let _ = call_within(channel, ADD).await;
        tokio::task::yield_now().await;
    }
}

async fn call_within(channel: &Channel, path: &'static str) -> Result<String, tonic::Status> {
    let mut request = Request::new("hello".to_owned());
    request.set_timeout(Duration::from_millis(200));
    send(channel, path, request).await
}

#[tokio::test]
async fn every_end_has_its_code_its_words_and_someone_who_is_to_blame() {
    for (end, reply, code, words, blamed) in ends() {
        let (well, ill) = (echo().await, echo().await);
        let (channel, _resolver) = connected(&[&well, &ill], |config| {
            // It stays out for as long as it is looked at.
            config.outlier.as_mut().unwrap().base_ejection_time = Duration::from_secs(60);
        })
        .await;
        ill.set(reply.clone());
        let (mut failed, mut closed) = (0, false);
        for _ in 0..24 {
            if is_out(&channel.state().unwrap(), 1) {
                break;
            }
            let (mut request, explain) = explained();
            request.set_timeout(Duration::from_millis(200));
            // Of a method that a descriptor knows to be unary and that is not
            // sent twice but where nothing was processed.
            let Err(status) = send(&channel, ADD_KNOWN, request).await else { continue };
            if explain.attempts().last().is_some_and(|attempt| attempt.instance.as_str() == "1") {
                assert_eq!(status.code(), code, "{end}: {status}");
                assert!(status.message().contains(words), "{end}: {status}");
                failed += 1;
            }
            closed |= matches!(reply, Reply::Close);
        }
        let state = channel.state().unwrap();
        if closed {
            // The connection is at fault, and the pool sees to it.
            assert!(!state.instances[1].ready || failed > 0, "{end}: {state:?}");
        } else {
            assert_eq!(is_out(&state, 1), blamed, "{end}: after {failed} failures {:?}", state.instances[1]);
        }
    }
}

/// As `ADD`, and in the descriptor.
const ADD_KNOWN: &str = "/test.v1.Peer/Put";

#[tokio::test]
async fn an_instance_that_fails_fast_gets_no_more_than_its_share_even_without_outlier_detection() {
    for reply in [Reply::Reset(2, NOW), page(503), Reply::fail(Code::Internal), messages(MESSAGE, &[])] {
        let (well, ill) = (start(Reply::Slow(Duration::from_millis(2))).await, echo().await);
        let (channel, _resolver) = connected(&[&well, &ill], |config| {
            config.balancer = Balancer::LeastRequest;
            config.outlier = None;
        })
        .await;
        ill.set(reply.clone());
        let before = ill.counts().requests;
        let callers = (0..16).map(|_| {
            let channel = channel.clone();
            tokio::spawn(async move {
                for _ in 0..40 {
                    let _ = call(&channel, ADD_KNOWN).await;
                }
            })
        });
        within(futures_util::future::join_all(callers.collect::<Vec<_>>())).await;
        let share = ill.counts().requests - before;
        // A half of 640 is its share; failing fast it would get nearly all.
        assert!(share <= 400, "{share} of 640 went to the one that fails fast: {reply:?}");
    }
}

#[tokio::test]
async fn an_instance_that_resets_every_stream_costs_no_more_than_one_that_answers_internal() {
    const CALLERS: usize = 8;
    for reply in [Reply::fail(Code::Internal), Reply::Reset(2, NOW), Reply::Reset(8, NOW), page(200)] {
        let (well, ill) = (start(Reply::Slow(Duration::from_millis(1))).await, echo().await);
        let (channel, _resolver) =
            connected(&[&well, &ill], |config| config.balancer = Balancer::LeastRequest).await;
        ill.set(reply.clone());
        let callers = (0..CALLERS).map(|_| {
            let channel = channel.clone();
            tokio::spawn(async move {
                let mut failed = 0;
                for _ in 0..3_000 / CALLERS {
                    failed += u32::from(call(&channel, ADD_KNOWN).await.is_err());
                }
                failed
            })
        });
        let failed = within(futures_util::future::join_all(callers.collect::<Vec<_>>())).await;
        let failed: u32 = failed.into_iter().map(Result::unwrap).sum();
        println!("{failed} of 3,000 calls failed: {reply:?}");
        // Five in a row, those under way then, and a failure at each ejection's end.
        assert!(failed <= 40, "{failed} of 3,000 calls failed: {reply:?}");
    }
}

#[tokio::test]
async fn callers_that_give_up_by_themselves_teach_that_an_instance_hangs() {
    let (well, hangs) = (echo().await, echo().await);
    let (channel, _resolver) = connected(&[&well, &hangs], |_| {}).await;
    for _ in 0..40 {
        call(&channel, ADD_KNOWN).await.unwrap();
    }
    hangs.set(Reply::Hang);
    let mut hung = 0;
    for _ in 0..100 {
        let patient = tokio::time::timeout(Duration::from_millis(100), call(&channel, ADD_KNOWN));
        hung += u32::from(patient.await.is_err());
    }
    assert!(is_out(&channel.state().unwrap(), 1) && hung <= 8, "{hung} of 100 calls hung");
}

#[tokio::test]
async fn callers_that_give_up_early_teach_nothing() {
    let (well, slow) = (echo().await, echo().await);
    let (channel, _resolver) = connected(&[&well, &slow], |_| {}).await;
    for peer in [&well, &slow] {
        peer.set(Reply::Slow(Duration::from_millis(60)));
    }
    for _ in 0..20 {
        call(&channel, ADD_KNOWN).await.unwrap();
    }
    for _ in 0..60 {
        let _ = tokio::time::timeout(Duration::from_millis(15), call(&channel, ADD_KNOWN)).await;
    }
    assert_eq!(channel.counters().unwrap().ejections.get(), 0);
}

#[tokio::test]
async fn an_ejected_instance_does_not_get_the_calls_of_callers_that_give_up() {
    let (well, hangs) = (echo().await, echo().await);
    let (channel, _resolver) = connected(&[&well, &hangs], |config| {
        config.outlier.as_mut().unwrap().base_ejection_time = Duration::from_millis(300);
    })
    .await;
    hangs.set(Reply::fail(Code::Unavailable));
    within(until_out(&channel, 1)).await;
    hangs.set(Reply::Hang);
    // Far more calls than pauses between probes, over several of those.
    let began = tokio::time::Instant::now();
    let (before, mut hung, mut all) = (hangs.counts().requests, 0, 0);
    while began.elapsed() < Duration::from_secs(2) {
        let patient = tokio::time::timeout(Duration::from_millis(20), call(&channel, GET));
        hung += u32::from(patient.await.is_err());
        all += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let probes = hangs.counts().requests - before;
    assert!(
        probes <= 7 && hung <= 7,
        "{probes} probes of an instance that hangs, {hung} of {all} calls hung"
    );
}

#[tokio::test]
async fn only_calls_that_may_be_sent_twice_try_an_ejected_instance() {
    let (well, ill) = (echo().await, echo().await);
    let (channel, _resolver) = connected(&[&well, &ill], |config| {
        config.outlier.as_mut().unwrap().base_ejection_time = Duration::from_millis(50);
    })
    .await;
    ill.set(Reply::fail(Code::Unavailable));
    within(until_out(&channel, 1)).await;
    let (requests, health) = (ill.counts().requests, ill.counts().health);
    ill.set(Reply::Echo);
    let back = async {
        while !channel.state().unwrap().instances[1].ready {
            call(&channel, ADD).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(back).await;
    assert!(ill.counts().health > health, "its health was checked");
    assert!(ill.counts().requests - requests <= 1, "no call was risked on it");
}

#[tokio::test]
async fn a_unary_probe_that_outlasts_the_channels_deadline_restores_nobody() {
    let (well, hangs) = (echo().await, echo().await);
    let (channel, _resolver) = connected(&[&well, &hangs], |config| {
        config.deadline = Duration::from_millis(200);
        config.outlier.as_mut().unwrap().base_ejection_time = Duration::from_millis(50);
    })
    .await;
    hangs.set(Reply::fail(Code::Unavailable));
    within(until_out(&channel, 1)).await;
    hangs.set(Reply::HangAfterHead);
    // Longer than the channel's own deadline.
    let probes = (0..20).map(|_| {
        let channel = channel.clone();
        tokio::spawn(async move {
            let mut request = Request::new("hello".to_owned());
            request.set_timeout(Duration::from_secs(2));
            send(&channel, GET, request).await
        })
    });
    let probes: Vec<_> = probes.collect();
    let began = tokio::time::Instant::now();
    while began.elapsed() < Duration::from_millis(1_500) {
        assert!(!channel.state().unwrap().instances[1].ready, "after {:?}", began.elapsed());
        let _ = tokio::time::timeout(Duration::from_millis(50), call(&channel, GET)).await;
    }
    drop(probes);
}

#[tokio::test]
async fn a_stranger_at_a_reused_address_is_recognised() {
    let (well, other_program) = (echo().await, start(Reply::fail(Code::Unimplemented)).await);
    let (channel, _resolver) = connected(&[&well, &other_program], |_| {}).await;
    let mut failed = 0;
    for _ in 0..200 {
        failed += u32::from(call(&channel, GET).await.is_err());
    }
    assert!(failed <= 12, "{failed} of 200 calls ended UNIMPLEMENTED");
    assert!(is_out(&channel.state().unwrap(), 1));
}

#[tokio::test]
async fn an_older_version_that_lacks_a_method_is_no_stranger() {
    let (new, old) = (echo().await, echo().await);
    let (channel, _resolver) = connected(&[&new, &old], |_| {}).await;
    for _ in 0..10 {
        call(&channel, GET).await.unwrap();
    }
    old.set(Reply::fail(Code::Unimplemented));
    for _ in 0..40 {
        let _ = call(&channel, "/test.v1.Peer/New").await;
    }
    assert_eq!(channel.counters().unwrap().ejections.get(), 0);
}

#[tokio::test]
async fn servers_that_refuse_get_no_multiple_of_the_load() {
    let peers = [start(Reply::Refuse).await, start(Reply::Refuse).await, start(Reply::Refuse).await];
    let resolver = registry_client::resolve::fixed::FixedResolver::with(
        peers.iter().enumerate().map(|(n, peer)| peer.instance(&n.to_string())),
    );
    let channel = crate::channel::channel(&resolver, |_| {});
    for _ in 0..500 {
        assert_eq!(call(&channel, GET).await.unwrap_err().code(), Code::Unavailable);
    }
    let streams: u64 = peers.iter().map(|peer: &FaultyServer| peer.counts().requests).sum();
    assert!(streams <= 601, "{streams} streams of 500 calls");
}

#[tokio::test]
async fn a_hedged_call_leaves_an_attempt_that_hangs_after_half_of_its_time() {
    use registry_client::policy::{
        MethodConfig, ServiceConfig, budget::BudgetConfig, hedge::HedgingPolicy, retry::RetryPolicy,
    };
    let (well, hangs) = (echo().await, echo().await);
    let mut hedged = MethodConfig::default();
    hedged.hedging = Some(HedgingPolicy::default());
    let mut patient = RetryPolicy::default();
    patient.attempt_timeout = Some(Duration::from_millis(100));
    let mut retried = MethodConfig::default();
    retried.retry = Some(patient);
    for method in [hedged, retried] {
        let (channel, _resolver) = connected(&[&well, &hangs], |config| {
            config.outlier = None;
            config.service_config = ServiceConfig::default().for_method("test.v1.Peer", "Get", method);
            // Nothing is ejected, so half of the calls are sent twice.
            config.service_config.budget = BudgetConfig::Share { ratio: 0.2, min_per_second: 10 };
        })
        .await;
        hangs.set(Reply::Hang);
        for _ in 0..8 {
            let mut request = Request::new("hello".to_owned());
            request.set_timeout(Duration::from_millis(600));
            assert_eq!(send(&channel, GET, request).await.unwrap(), "hello");
        }
        hangs.set(Reply::Echo);
    }
}
