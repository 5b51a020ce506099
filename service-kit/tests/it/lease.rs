//! Leases, taken from several replicas.

use std::time::Duration;

use service_kit::{
    database::{Database, Migration, Migrations},
    lease::{FenceError, LEASES, Lease, Leases, MAX_LEASE},
    on_both_databases,
    testing::TestDatabase,
};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(50);

const NOTES: Migration =
    Migration { name: "notes", sql: "CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL)" };
const MIGRATIONS: Migrations =
    Migrations { sqlite: &[LEASES.sqlite[0], NOTES], postgres: &[LEASES.postgres[0], NOTES] };

const NOTE: &str =
    "INSERT INTO notes (name, value) VALUES ('a', $1) ON CONFLICT (name) DO UPDATE SET value = $1";

async fn open(database: &TestDatabase) -> Database {
    Database::open(database.url(), &MIGRATIONS).await.unwrap()
}

/// Writes as the holder.
async fn note(database: &Database, lease: &Lease, value: &str) -> Result<(), FenceError> {
    let mut unit = database.unit();
    loop {
        let mut open = unit.begin().await?;
        let done = match lease.fence(&mut open, SHORT).await {
            Ok(()) => open.execute(NOTE, &[value.into()]).await.map(drop).map_err(FenceError::from),
            lost => lost,
        };
        if let Some(done) = unit.end(open, done).await {
            return done;
        }
    }
}

async fn noted(database: &Database) -> Option<String> {
    let row = database.row("SELECT value FROM notes", &[]).await.unwrap();
    row.map(|row| row.get("value").unwrap())
}

async fn taken(leases: &Leases, time: Duration) -> Lease {
    loop {
        if let Some(lease) = leases.take("a", time).await.unwrap() {
            return lease;
        }
    }
}

async fn one_replica_at_a_time_holds_a_lease(database: TestDatabase) {
    let (one, other) = (Leases::new(open(&database).await), Leases::new(open(&database).await));
    let held = one.take("a", LONG).await.unwrap().unwrap();
    assert!(other.take("a", LONG).await.unwrap().is_none());
    assert!(one.take("a", LONG).await.unwrap().is_none(), "twice in one replica");
    assert!(other.take("b", LONG).await.unwrap().is_some(), "another lease is free");
    assert!(held.remaining() > LONG / 2 && held.remaining() <= LONG);

    let token = held.token();
    held.release().await.unwrap();
    assert!(other.take("a", LONG).await.unwrap().unwrap().token() > token);
}

async fn of_many_that_want_a_lease_one_has_it(database: TestDatabase) {
    let mut taking = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let leases = Leases::new(open(&database).await);
        taking.spawn(async move { leases.take("a", LONG).await.unwrap() });
    }
    assert_eq!(taking.join_all().await.into_iter().flatten().count(), 1);
}

async fn a_lease_is_held_on_by_its_holder_and_its_writes(database: TestDatabase) {
    let database = open(&database).await;
    let leases = Leases::new(database.clone());
    let mut held = taken(&leases, SHORT).await;
    held.renew(LONG).await.unwrap();
    assert!(held.remaining() > LONG / 2);
    assert!(leases.take("a", LONG).await.unwrap().is_none());
    // An expired lease stays with its holder until another takes it.
    held.renew(Duration::ZERO).await.unwrap();
    note(&database, &held, "mine").await.unwrap();
    assert_eq!(noted(&database).await.as_deref(), Some("mine"));
}

async fn whoever_lost_a_lease_writes_nothing(database: TestDatabase) {
    let (one, other) = (open(&database).await, open(&database).await);
    let mut frozen = taken(&Leases::new(one.clone()), SHORT).await;
    // It passes to another while its holder does nothing.
    let mut next = taken(&Leases::new(other.clone()), LONG).await;
    assert!(next.token() > frozen.token());
    note(&other, &next, "new").await.unwrap();

    assert!(matches!(note(&one, &frozen, "old").await, Err(FenceError::LeaseLost(_))));
    assert!(matches!(frozen.renew(LONG).await, Err(FenceError::LeaseLost(_))));
    frozen.release().await.unwrap();
    assert_eq!(noted(&other).await.as_deref(), Some("new"));
    next.renew(LONG).await.unwrap();
}

async fn a_lease_from_before_the_clock_was_set_back_keeps_nobody_waiting(database: TestDatabase) {
    let open = open(&database).await;
    let leases = Leases::new(open.clone());
    let held = leases.take("a", LONG).await.unwrap().unwrap();
    let mut ahead = open.begin().await.unwrap();
    ahead.execute("UPDATE leases SET until = until + 3600000000", &[]).await.unwrap();
    ahead.commit().await.unwrap();
    let next = leases.take("a", LONG).await.unwrap().unwrap();
    assert!(next.token() > held.token());
    assert!(matches!(note(&open, &held, "old").await, Err(FenceError::LeaseLost(_))));
    assert!(leases.take("a", LONG).await.unwrap().is_none(), "this one is a lease again");
}

async fn no_lease_is_longer_than_the_longest(database: TestDatabase) {
    let leases = Leases::new(open(&database).await);
    let mut held = leases.take("a", 100 * MAX_LEASE).await.unwrap().unwrap();
    held.renew(100 * MAX_LEASE).await.unwrap();
    assert!(held.remaining() <= MAX_LEASE);
    assert!(leases.take("a", LONG).await.unwrap().is_none());
}

on_both_databases!(
    a_lease_from_before_the_clock_was_set_back_keeps_nobody_waiting,
    no_lease_is_longer_than_the_longest,
    one_replica_at_a_time_holds_a_lease,
    of_many_that_want_a_lease_one_has_it,
    a_lease_is_held_on_by_its_holder_and_its_writes,
    whoever_lost_a_lease_writes_nothing,
);
