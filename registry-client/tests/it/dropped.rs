//! The work of a cancelled call ends (RELIABILITY R12).

use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, JoinSet};

use crate::{
    scripted::Connection,
    server::{Running, within},
};

const CALLS: usize = 200;
const CONNECTIONS: usize = 4;
/// How long after its end a handler may live.
const LATE: Duration = Duration::from_millis(100);
const METHODS: [&str; 2] = ["test.v1.Scripted/Hold", "test.v1.Scripted/Ticks"];

/// How late this machine wakes a task, at worst: what is measured against the
/// clock here cannot be better.
pub(crate) struct Lag(JoinHandle<()>, std::sync::Arc<std::sync::Mutex<Duration>>);

impl Lag {
    pub(crate) fn watch() -> Self {
        const NAP: Duration = Duration::from_millis(5);
        let worst = std::sync::Arc::<std::sync::Mutex<Duration>>::default();
        let seen = worst.clone();
        let task = tokio::spawn(async move {
            loop {
                let began = Instant::now();
                tokio::time::sleep(NAP).await;
                let lag = began.elapsed().saturating_sub(NAP);
                let mut worst = seen.lock().unwrap();
                *worst = lag.max(*worst);
            }
        });
        Self(task, worst)
    }

    pub(crate) fn worst(self) -> Duration {
        self.0.abort();
        *self.1.lock().unwrap()
    }
}

/// Waits until every handler has ended, and returns how late each was.
async fn lateness(server: &Running, due: Instant) -> Vec<Duration> {
    let dropped = &server.service.dropped;
    within(async {
        while dropped.lock().unwrap().len() < CALLS {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let mut late: Vec<_> =
        dropped.lock().unwrap().iter().map(|ended| ended.saturating_duration_since(due)).collect();
    late.sort_unstable();
    late
}

#[track_caller]
fn assert_prompt(what: &str, late: &[Duration], lag: Duration) {
    let worst_of_99 = late[CALLS * 99 / 100 - 1];
    println!(
        "{what}: of {CALLS} handlers 99 % ended within {worst_of_99:?}, all within {:?}; a timer was up to {lag:?} late",
        late[CALLS - 1]
    );
    assert!(worst_of_99 <= LATE + lag * 2, "{what}: {worst_of_99:?}, on a machine that wakes {lag:?} late");
}

async fn connections(server: &Running) -> Vec<Connection> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(Connection::open(server.address).await);
    }
    connections
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_of_expired_calls_are_dropped() {
    const TIMEOUT: Duration = Duration::from_millis(500);
    for method in METHODS {
        let server = Running::start(|_| {}).await;
        let connections = connections(&server).await;
        let lag = Lag::watch();
        let mut calls = JoinSet::new();
        for n in 0..CALLS {
            let connection = connections[n % CONNECTIONS].clone();
            calls.spawn(async move { connection.call(method, &[("grpc-timeout", "500m")]).await });
        }
        within(server.service.begun.acquire_many(CALLS as u32)).await.unwrap().forget();
        // By now every call's time runs.
        let began = Instant::now();
        for call in within(calls.join_all()).await {
            assert_eq!(call.unwrap().0.code(), tonic::Code::DeadlineExceeded);
        }
        let late = lateness(&server, began + TIMEOUT).await;
        assert_prompt(&format!("{method}, expired"), &late, lag.worst());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_of_cancelled_calls_are_dropped() {
    for method in METHODS {
        let server = Running::start(|_| {}).await;
        let connections = connections(&server).await;
        let mut calls = JoinSet::new();
        for n in 0..CALLS {
            let connection = connections[n % CONNECTIONS].clone();
            calls.spawn(async move {
                let mut answer = connection.begin(method, &[]).await.unwrap();
                while answer.message().await.is_some() {}
            });
        }
        within(server.service.begun.acquire_many(CALLS as u32)).await.unwrap().forget();
        assert!(server.service.dropped.lock().unwrap().is_empty());
        let lag = Lag::watch();
        let cancelled = Instant::now();
        calls.abort_all();
        let late = lateness(&server, cancelled).await;
        assert_prompt(&format!("{method}, cancelled"), &late, lag.worst());
    }
}
