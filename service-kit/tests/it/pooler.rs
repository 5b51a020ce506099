//! `PgBouncer` between a service and its database.

use std::time::Duration;

use service_kit::{
    database::Database,
    testing::{PgBouncer, PostgresServer},
};
use sqlx::{Connection, Executor, PgConnection};
use tokio::{task::JoinSet, time::timeout};

use crate::database::{MIGRATIONS, raise, value};

/// Opens it `times` times through a pooler with these settings; all refusals.
async fn refusals(settings: &str, times: usize) -> Vec<String> {
    let server = PostgresServer::start(false);
    let pooler = PgBouncer::start(&server, settings);
    let url = pooler.url("postgres").parse().unwrap();
    // Others use the pooler meanwhile, so that sessions come in any order.
    let mut others = JoinSet::new();
    for _ in 0..4 {
        let url = pooler.url("postgres");
        others.spawn(async move {
            let mut connection = PgConnection::connect(&url).await.unwrap();
            loop {
                // One may receive what was meant for another.
                let _ = connection.execute("SELECT pg_sleep(random() / 100)").await;
            }
        });
    }
    let mut refused = Vec::new();
    for _ in 0..times {
        refused.extend(Database::open(&url, &MIGRATIONS).await.err().map(|why| why.to_string()));
    }
    refused
}

async fn is_refused(settings: &str) {
    const TIMES: usize = 10;
    let refused = refusals(settings, TIMES).await;
    assert_eq!(refused.len(), TIMES, "{refused:?}");
    for why in refused {
        assert!(why.contains("share server sessions") && why.contains("pool_mode = session"), "{why}");
    }
}

const TRANSACTIONS: &str = "pool_mode = transaction\nignore_startup_parameters = extra_float_digits";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transaction_mode_is_refused() {
    is_refused(TRANSACTIONS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transaction_mode_is_refused_when_sessions_take_turns() {
    is_refused(&format!("{TRANSACTIONS}\nserver_round_robin = 1")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transaction_mode_is_refused_when_there_is_one_session() {
    is_refused(&format!("{TRANSACTIONS}\ndefault_pool_size = 1")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statement_mode_is_refused() {
    let refused = refusals("pool_mode = statement\nignore_startup_parameters = extra_float_digits", 3).await;
    assert_eq!(refused.len(), 3, "{refused:?}");
    assert!(refused[0].contains("statement"), "{refused:?}");
}

/// As it comes, but for the room that two replicas need.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_session_mode_it_works_as_without() {
    let server = PostgresServer::start(false);
    let pooler = PgBouncer::start(&server, "default_pool_size = 40");
    let url = pooler.url("postgres").parse().unwrap();
    let mut replicas = Vec::new();
    for _ in 0..2 {
        replicas.push(Database::open(&url, &MIGRATIONS).await.unwrap());
    }
    let mut subscription = replicas[1].changes().subscribe("hello");
    timeout(Duration::from_secs(5), subscription.changed()).await.expect("no notification arrived");
    let mut writing = JoinSet::new();
    for writer in 0..16 {
        let replica = replicas[writer % 2].clone();
        writing.spawn(async move {
            for _ in 0..25 {
                raise(&replica, "a").await;
            }
        });
    }
    writing.join_all().await;
    assert_eq!(value(&replicas[0], "a").await, Some(400));
    raise(&replicas[0], "hello").await;
    timeout(Duration::from_secs(5), subscription.changed()).await.expect("the change was not announced");
    assert!(replicas[0].health().borrow().is_healthy());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_with_room_for_one_connection_is_refused() {
    let server = PostgresServer::start(false);
    let pooler = PgBouncer::start(&server, "default_pool_size = 1");
    let why = Database::open(&pooler.url("postgres").parse().unwrap(), &MIGRATIONS).await.unwrap_err();
    assert!(why.to_string().contains("default_pool_size"), "{why}");
}
