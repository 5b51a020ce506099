//! An address that moves from one server to another: a primary and its hot
//! standby, behind a port that leads to either.

use std::{path::PathBuf, time::Duration};

use service_kit::{
    database::{Database, Error, Health},
    testing::PostgresServer,
};
use sqlx::{Connection, Executor, PgConnection};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::database::{MIGRATIONS, RAISE};

mod front;

use front::{Front, Open};

/// The time within which a failure, and its end, must be noticed.
const NOTICED: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(20);
/// Connections of the pool, and more.
const CALLERS: usize = 12;

struct Bed {
    primary: PostgresServer,
    standby: PostgresServer,
    front: Front,
    database: Database,
}

impl Bed {
    async fn start() -> Self {
        let primary = PostgresServer::start(false);
        let standby = primary.standby();
        let front = Front::to(primary.socket()).await;
        let database = Database::open(&front.url().parse().unwrap(), &MIGRATIONS).await.unwrap();
        Self { primary, standby, front, database }
    }

    /// Reads with every connection that the pool may have, for `time`.
    async fn read_for(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut reading = JoinSet::new();
        for _ in 0..CALLERS {
            let database = self.database.clone();
            reading.spawn(async move {
                while Instant::now() < until {
                    let _ = database.row("SELECT pg_sleep(0.05)", &[]).await;
                }
            });
        }
        reading.join_all().await;
    }

    async fn until(&self, healthy: bool) -> Duration {
        let began = Instant::now();
        let mut health = self.database.health();
        let reached = timeout(NOTICED, health.wait_for(|health| health.is_healthy() == healthy)).await;
        assert!(reached.is_ok(), "after {NOTICED:?} healthy is still {}", !healthy);
        began.elapsed()
    }

    /// Writes at once with every connection that the pool may have, over and
    /// over; what failed.
    async fn write(&self) -> Vec<String> {
        let mut writing = JoinSet::new();
        for caller in 0..CALLERS {
            let database = self.database.clone();
            writing.spawn(async move {
                let mut failed = Vec::new();
                for _ in 0..20 {
                    failed.extend(raise(&database, &format!("caller-{caller}")).await.err());
                }
                failed
            });
        }
        writing.join_all().await.concat().iter().map(ToString::to_string).collect()
    }

    /// Waits until a write succeeds; how many have failed before.
    async fn until_written(&self) -> usize {
        let give_up = Instant::now() + NOTICED;
        let mut failed = 0;
        while let Err(why) = raise(&self.database, "a").await {
            failed += 1;
            assert!(Instant::now() < give_up, "no write succeeds, for {why}: {:?}", self.health());
            sleep(STEP).await;
        }
        failed
    }

    fn health(&self) -> Health {
        self.database.health().borrow().clone()
    }
}

async fn raise(database: &Database, name: &str) -> Result<(), std::sync::Arc<Error>> {
    let written = async {
        let mut open = database.begin().await?;
        open.row(RAISE, &[name.into()]).await?;
        open.commit().await
    };
    written.await.map_err(Into::into)
}

async fn run_sql(server: &PostgresServer, statements: &'static str) {
    let mut connection = PgConnection::connect(&server.url("postgres")).await.unwrap();
    for statement in statements.split(';') {
        connection.execute(statement).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_led_to_a_standby_for_a_while_leaves_nothing_behind() {
    let bed = Bed::start().await;
    raise(&bed.database, "a").await.unwrap();
    bed.front.switch(bed.standby.socket(), Open::Close);
    bed.read_for(Duration::from_millis(500)).await;
    bed.until(false).await;
    let refused = raise(&bed.database, "a").await.unwrap_err();
    assert!(matches!(*refused, Error::Failing(_)), "{refused}");
    bed.read_for(Duration::from_millis(500)).await;

    // Sessions on the standby stay open: only their end shows the failure.
    bed.front.switch(bed.primary.socket(), Open::Stay);
    bed.until(true).await;
    assert_eq!(bed.write().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_on_a_standby_are_not_kept_although_the_probe_has_none() {
    let bed = Bed::start().await;
    // The probe has connected by then, and stays where it is.
    sleep(Duration::from_millis(1_500)).await;
    bed.front.switch(bed.standby.socket(), Open::Stay);
    bed.read_for(Duration::from_millis(500)).await;
    bed.front.switch(bed.primary.socket(), Open::Stay);

    bed.until_written().await;
    bed.until(true).await;
    assert_eq!(bed.write().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_set_read_only_is_noticed_without_a_call() {
    let bed = Bed::start().await;
    raise(&bed.database, "a").await.unwrap();
    run_sql(&bed.primary, "ALTER SYSTEM SET default_transaction_read_only = on;SELECT pg_reload_conf()")
        .await;
    bed.until(false).await;
    run_sql(
        &bed.primary,
        "SET default_transaction_read_only = off;ALTER SYSTEM RESET default_transaction_read_only;SELECT pg_reload_conf()",
    )
    .await;
    bed.until(true).await;
    assert_eq!(bed.write().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_began_read_only_are_closed_by_what_they_answer() {
    const KILL: &str =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(0.05)'";
    let bed = Bed::start().await;
    sleep(Duration::from_millis(1_500)).await;
    run_sql(&bed.primary, "ALTER DATABASE postgres SET default_transaction_read_only = on").await;
    bed.read_for(Duration::from_millis(200)).await;
    run_sql(&bed.primary, KILL).await;
    bed.read_for(Duration::from_millis(200)).await;
    run_sql(
        &bed.primary,
        "SET default_transaction_read_only = off;ALTER DATABASE postgres RESET default_transaction_read_only",
    )
    .await;

    bed.until_written().await;
    bed.until(true).await;
    assert_eq!(bed.write().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_is_promoted_takes_over() {
    let Bed { primary, standby, front, database } = Bed::start().await;
    raise(&database, "a").await.unwrap();
    let socket: PathBuf = standby.socket();
    drop(primary);
    front.switch(socket, Open::Close);
    let bed = Bed { primary: PostgresServer::start(false), standby, front, database };
    bed.read_for(Duration::from_millis(300)).await;
    bed.until(false).await;
    run_sql(&bed.standby, "SELECT pg_promote()").await;
    bed.until(true).await;
    assert_eq!(bed.write().await, [""; 0]);
}

/// Callers give up before the database does, and leave connections behind on
/// which nothing comes any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_fell_silent_do_not_use_up_the_pool() {
    let bed = Bed::start().await;
    bed.read_for(Duration::from_millis(300)).await;
    bed.front.switch(bed.primary.socket(), Open::Silence);
    let mut calling = JoinSet::new();
    for _ in 0..CALLERS {
        let database = bed.database.clone();
        calling.spawn(timeout(Duration::from_millis(300), async move { raise(&database, "a").await }));
    }
    calling.join_all().await;

    bed.until_written().await;
    assert_eq!(bed.write().await, [""; 0]);
}
