//! The number of consecutive results that change a check's status.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::checks::{agent_check, becomes};
use super::{Case, cases};
use crate::agents::Target;

pub(super) fn cases() -> Vec<Case> {
    cases![
        a_threshold_is_a_number_of_results_in_a_row,
        failures_warn_before_they_are_critical.since((1, 22, 0), "no threshold for warning before"),
    ]
}

/// A health service that counts its responses with the current status.
#[derive(Clone)]
struct Counted(Arc<Mutex<(bool, usize)>>);

impl Counted {
    /// Starts a server that listens until the test ends.
    async fn start(serving: bool) -> (Self, SocketAddr) {
        let counted = Self(Arc::new(Mutex::new((serving, 0))));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::builder().add_service(HealthServer::new(counted.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (counted, address)
    }

    fn answer(&self, serving: bool) {
        *self.0.lock().unwrap() = (serving, 0);
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().1
    }
}

#[tonic::async_trait]
impl Health for Counted {
    type WatchStream = tokio_stream::Pending<Result<HealthCheckResponse, Status>>;

    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let (serving, count) = &mut *self.0.lock().unwrap();
        *count += 1;
        let status = if *serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        Ok(Response::new(HealthCheckResponse { status: status as i32 }))
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("only Check"))
    }
}

/// The number of results until the check has the expected status.
async fn results_until(target: &Target, id: &str, status: &str, server: &Counted) -> usize {
    let started = Instant::now();
    while agent_check(target, id).await["Status"] != status {
        assert!(started.elapsed() < Duration::from_secs(15), "{id} never became {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.count()
}

async fn a_threshold_is_a_number_of_results_in_a_row(target: Target) {
    let checks = (0..=3).flat_map(|threshold| [(threshold, true), (threshold, false)]);
    join_all(checks.map(|(threshold, serving)| turned_by(&target, threshold, serving))).await;
}

/// A check that first receives `serving` turns after `threshold` results, of which 0 is 1. The first result after
/// each registration counts.
async fn turned_by(target: &Target, threshold: usize, serving: bool) {
    let (server, address) = Counted::start(serving).await;
    let id = format!("threshold-{threshold}-{serving}");
    let [at_first, then] = if serving { ["passing", "critical"] } else { ["critical", "passing"] };
    let check = json!({
        "CheckID": id, "GRPC": address.to_string(), "Interval": "1s", "Status": then,
        "SuccessBeforePassing": threshold, "FailuresBeforeCritical": threshold,
    });
    target.register(json!({"Name": id, "Check": check})).await;
    assert_eq!(results_until(target, &id, at_first, &server).await, 1, "{id}: the first of all");
    for (answer, status) in [(!serving, then), (serving, at_first)] {
        server.answer(answer);
        let results = results_until(target, &id, status, &server).await;
        assert_eq!(results, threshold.max(1), "{id}: until {status}");
    }
    server.answer(!serving);
    target.register(json!({"Name": id, "Check": check})).await;
    let before = server.count();
    let results = results_until(target, &id, then, &server).await;
    assert!(
        results <= before + 1,
        "{id}: {results} results, {before} of them before it was registered again"
    );
}

async fn failures_warn_before_they_are_critical(target: Target) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let definition = json!({
        "CheckID": "threshold", "TCP": address.to_string(), "Interval": "1s", "Status": "passing",
        "FailuresBeforeWarning": 2, "FailuresBeforeCritical": 3,
    });
    target.register(json!({"Name": "threshold", "Check": definition})).await;
    becomes(&target, "threshold", "passing", &format!("TCP connect {address}: Success")).await;
    drop(listener);
    let refused = format!("dial tcp {address}: connect: connection refused");
    let started = Instant::now();
    becomes(&target, "threshold", "warning", &refused).await;
    assert!(started.elapsed() > Duration::from_millis(900), "the first failure does not change the status");
    becomes(&target, "threshold", "critical", &refused).await;
}
