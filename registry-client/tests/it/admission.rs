//! A server with more to do than it can: what is refused, how, and what is
//! still done.

use std::time::{Duration, Instant};

use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto};
use registry_client::{AdmissionConfig, Mesh, ServerConfig, resolve::fixed::FixedResolver};
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{
    dropped::Lag,
    scripted::{Connection, frame},
    server::{Running, within},
};

const ECHO: &str = "test.v1.Scripted/Echo";
const HOLD: &str = "test.v1.Scripted/Hold";
const TICKS: &str = "test.v1.Scripted/Ticks";
const WORK: &str = "test.v1.Scripted/Work";

/// What describes `test.v1.Scripted`.
pub(crate) fn descriptors() -> &'static [u8] {
    let method = |name: &str| MethodDescriptorProto {
        name: Some(name.into()),
        input_type: Some(".google.protobuf.StringValue".into()),
        output_type: Some(".google.protobuf.StringValue".into()),
        server_streaming: Some(name == "Ticks"),
        ..Default::default()
    };
    let service = ServiceDescriptorProto {
        name: Some("Scripted".into()),
        method: ["Echo", "Hold", "Ticks", "Work"].map(method).into(),
        ..Default::default()
    };
    let file = FileDescriptorProto {
        name: Some("test/v1/scripted.proto".into()),
        package: Some("test.v1".into()),
        service: vec![service],
        ..Default::default()
    };
    Vec::leak(FileDescriptorSet { file: vec![file] }.encode_to_vec())
}

fn admission(change: impl FnOnce(&mut AdmissionConfig)) -> impl FnOnce(&mut ServerConfig) {
    let mut admission = AdmissionConfig::default();
    change(&mut admission);
    move |config| config.admission = Some(admission)
}

/// One call of a method at a time.
fn one(admission: &mut AdmissionConfig) {
    (admission.min, admission.max, admission.initial) = (1, 1, 1);
}

#[tokio::test]
async fn a_refusal_says_why_and_when_to_come_back_and_other_methods_are_let_in() {
    let server = Running::described(admission(one)).await;
    let held = server.held().await;
    let connection = Connection::open(server.address).await;
    let (status, _) = within(connection.call(HOLD, &[])).await.unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let words = "the server has as many calls of test.v1.Scripted/Hold under way as it may";
    assert_eq!(status.message(), words);
    let details = status.get_error_details();
    let after = details.retry_info().and_then(|info| info.retry_delay).unwrap();
    assert!((Duration::from_millis(500)..=Duration::from_millis(1500)).contains(&after), "{after:?}");
    let info = details.error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("OVERLOADED", "test"));
    assert_eq!((info.metadata["under_way"].as_str(), info.metadata["limit"].as_str()), ("1", "1"));

    assert_eq!(connection.echo().await, "hello");
    server.service.release.add_permits(1);
    assert_eq!(within(held).await.unwrap().unwrap().0.code(), Code::Ok);
    server.service.release.add_permits(1);
    let (status, _) = within(connection.call(HOLD, &[])).await.unwrap();
    assert_eq!(status.code(), Code::Ok, "{status}");
}

#[tokio::test]
async fn health_and_reflection_are_never_refused() {
    let server = Running::described(admission(|admission| {
        one(admission);
        admission.max_streams = 1;
    }))
    .await;
    let _held = server.held().await;
    let connection = Connection::open(server.address).await;
    let mut first = connection.begin(TICKS, &[]).await.unwrap();
    assert_eq!(first.message().await.unwrap().unwrap(), "hello");
    let (status, _) = within(connection.call(TICKS, &[])).await.unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted, "a stream counts for as long as it is open: {status}");

    let mut watches = Vec::new();
    for _ in 0..10 {
        let mut client = crate::server::health_client(server.address).await;
        let request = tonic_health::pb::HealthCheckRequest::default();
        client.check(request.clone()).await.unwrap();
        let mut watch = client.watch(request).await.unwrap().into_inner();
        assert!(watch.message().await.unwrap().is_some());
        watches.push(watch);
    }
    drop(first);
    within(async { while connection.begin(TICKS, &[]).await.unwrap().message().await.is_none() {} }).await;
}

#[tokio::test]
async fn switched_off_everything_is_let_in() {
    let server = Running::described(|config| config.admission = None).await;
    // More than the highest limit unless set.
    const CALLS: usize = 1_056;
    let mut calls = JoinSet::new();
    for _ in 0..11 {
        let connection = Connection::open(server.address).await;
        for _ in 0..CALLS / 11 {
            let connection = connection.clone();
            calls.spawn(async move { connection.call(HOLD, &[]).await });
        }
    }
    within(server.service.begun.acquire_many(CALLS as u32)).await.unwrap().forget();
    server.service.release.add_permits(CALLS);
    for call in within(calls.join_all()).await {
        assert_eq!(call.unwrap().0.code(), Code::Ok);
    }
}

/// What came of calls that were sent at a fixed rate.
#[derive(Default)]
struct Load {
    served: usize,
    expired: usize,
    refused: Vec<Duration>,
}

/// Sends `Work` so often a second, whatever comes back.
async fn load(server: &Running, per_second: f64, time: Duration) -> Load {
    const TICK: Duration = Duration::from_millis(10);
    let mut connections = Vec::new();
    for _ in 0..4 {
        connections.push(Connection::open(server.address).await);
    }
    let mut calls = JoinSet::new();
    let began = Instant::now();
    let mut sent = 0;
    while began.elapsed() < time {
        let due = (began.elapsed().as_secs_f64() * per_second) as usize;
        for n in sent..due {
            let connection = connections[n % connections.len()].clone();
            calls.spawn(async move {
                let began = Instant::now();
                let answer = connection.call(WORK, &[("grpc-timeout", "1S")]).await;
                (
                    answer.map_or_else(|e| Status::internal(e.to_string()), |(status, _)| status),
                    began.elapsed(),
                )
            });
        }
        sent = due;
        tokio::time::sleep(TICK).await;
    }
    let mut load = Load::default();
    for (status, took) in within(calls.join_all()).await {
        match status.code() {
            Code::Ok => load.served += 1,
            Code::DeadlineExceeded => load.expired += 1,
            Code::ResourceExhausted => load.refused.push(took),
            _ => panic!("{status}"),
        }
    }
    load
}

/// As many calls a second as so many callers get done, one after the other.
async fn peak(server: &Running, time: Duration) -> f64 {
    let mut callers = JoinSet::new();
    let began = Instant::now();
    for _ in 0..8 {
        let connection = Connection::open(server.address).await;
        callers.spawn(async move {
            let mut done = 0;
            while began.elapsed() < time {
                let (status, _) = connection.call(WORK, &[]).await.unwrap();
                assert_eq!(status.code(), Code::Ok, "{status}");
                done += 1;
            }
            done
        });
    }
    callers.join_all().await.iter().sum::<i32>() as f64 / began.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_times_too_much_is_shed_and_what_can_be_done_is_done() {
    let server = Running::described(|_| {}).await;
    let peak = peak(&server, Duration::from_secs(2)).await;
    let half = load(&server, peak / 2.0, Duration::from_secs(2)).await;
    assert!(half.refused.is_empty(), "{} refused below saturation", half.refused.len());

    let lag = Lag::watch();
    let time = Duration::from_secs(12);
    let mut load = load(&server, peak * 3.0, time).await;
    let lag = lag.worst();
    let goodput = load.served as f64 / time.as_secs_f64() / peak;
    load.refused.sort_unstable();
    let p99 = load.refused[load.refused.len() * 99 / 100];
    println!(
        "peak {peak:.0}/s; at three times that, goodput {goodput:.2} of it, {} expired, {} refused within {p99:?} (p99); a timer was up to {lag:?} late",
        load.expired,
        load.refused.len()
    );
    // A busy machine takes some of it too.
    assert!(goodput >= 0.6, "goodput fell to {goodput} of the peak");
    assert!(load.refused.len() > load.served, "{} refused", load.refused.len());
    assert!(p99 <= Duration::from_millis(20) + lag * 2, "refused after {p99:?}");
}

#[tokio::test]
async fn a_call_that_cannot_wait_for_its_turn_is_refused_at_once() {
    let server = Running::described(admission(|admission| {
        one(admission);
        admission.queue_wait = Duration::from_secs(10);
    }))
    .await;
    let connection = Connection::open(server.address).await;
    // What a call takes is known from then on.
    let (status, _) = within(connection.call(WORK, &[])).await.unwrap();
    assert_eq!(status.code(), Code::Ok, "{status}");
    server.service.workers.forget_permits(4);
    let held = {
        let connection = connection.clone();
        tokio::spawn(async move { connection.call(WORK, &[]).await })
    };
    let refused = within(async {
        loop {
            let (status, _) = connection.call(WORK, &[("grpc-timeout", "10m")]).await.unwrap();
            if status.code() == Code::ResourceExhausted {
                return status;
            }
        }
    })
    .await;
    assert!(refused.message().ends_with("/Work under way as it may"), "{refused}");
    let waits = {
        let connection = connection.clone();
        tokio::spawn(async move { connection.call(WORK, &[("grpc-timeout", "10S")]).await })
    };
    assert!(!waits.is_finished());
    server.service.workers.add_permits(4);
    assert_eq!(within(held).await.unwrap().unwrap().0.code(), Code::Ok);
    assert_eq!(within(waits).await.unwrap().unwrap().0.code(), Code::Ok);
    assert_eq!(connection.call(ECHO, &[]).await.unwrap().0.code(), Code::Ok);
}

#[tokio::test]
async fn a_channel_hands_its_caller_the_refusal_itself() {
    let server = Running::described(admission(one)).await;
    let _held = server.held().await;
    let mesh = Mesh::builder().resolver(FixedResolver::new([server.address])).build().unwrap();
    let mut calls = JoinSet::new();
    for _ in 0..200 {
        let channel = mesh.channel("test");
        calls.spawn(async move { crate::channel::call(&channel, "/test.v1.Scripted/Hold").await });
    }
    for call in within(calls.join_all()).await {
        // The response comes before the request has ended, which is no fault of
        // the connection.
        let status = call.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(status.get_error_details().retry_info().is_some(), "{status}");
    }
}

#[tokio::test]
async fn a_request_that_is_not_here_whole_is_refused_when_it_is_and_costs_no_connection() {
    let server = Running::described(admission(|admission| {
        one(admission);
        admission.queue = 0;
    }))
    .await;
    let _held = server.held().await;
    let connection = Connection::open(server.address).await;
    // More than the frames that `h2` allows a peer to send after a stream was closed.
    for _ in 0..1_200 {
        let (response, mut body) = connection.open_call(HOLD, None).await.unwrap();
        tokio::task::yield_now().await;
        body.send_data(frame(&"hello".to_owned()), true).unwrap();
        let head = within(response).await.unwrap();
        assert_eq!(head.headers()["grpc-status"], "8", "{head:?}");
    }
    assert_eq!(connection.echo().await, "hello");
}

#[tokio::test]
async fn refusals_of_one_moment_are_alike_and_each_is_counted() {
    let server = Running::described(admission(|admission| {
        one(admission);
        admission.queue = 0;
    }))
    .await;
    let _held = server.held().await;
    let connection = Connection::open(server.address).await;
    for _ in 0..500 {
        let (status, _) = within(connection.call(HOLD, &[])).await.unwrap();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert_eq!(status.metadata().get("consort-refused").unwrap(), "1");
        let info = status.get_error_details().error_info().unwrap().clone();
        assert_eq!((info.reason.as_str(), info.metadata["method"].as_str()), ("OVERLOADED", HOLD));
    }
    let (status, _) = within(connection.call(HOLD, &[("content-type", "text/html")])).await.unwrap();
    assert_ne!(
        status.code(),
        Code::ResourceExhausted,
        "a request that is not gRPC is rejected as such: {status}"
    );
}
