//! Writing and reading, from one and from several replicas.

use std::{path::PathBuf, time::Duration};

use service_kit::{
    database::{Database, DatabaseUrl, Migration, Migrations, Sql},
    on_both_databases,
    testing::TestDatabase,
};
use sqlx::{ConnectOptions, Executor, sqlite::SqliteConnectOptions};
use tokio::task::JoinSet;

const TABLE: &[Migration] = &[Migration {
    name: "counters",
    sql: "CREATE TABLE counters (name TEXT PRIMARY KEY, value BIGINT NOT NULL)",
}];
pub(crate) const MIGRATIONS: Migrations = Migrations { sqlite: TABLE, postgres: TABLE };

pub(crate) const RAISE: &str = "INSERT INTO counters (name, value) VALUES ($1, 1) \
     ON CONFLICT (name) DO UPDATE SET value = counters.value + 1 RETURNING value";

pub(crate) async fn open(database: &TestDatabase) -> Database {
    Database::open(database.url(), &MIGRATIONS).await.unwrap()
}

pub(crate) async fn raise(database: &Database, name: &str) -> i64 {
    let mut open = database.begin().await.unwrap();
    let row = open.row(RAISE, &[name.into()]).await.unwrap().unwrap();
    open.changed(name).await.unwrap();
    open.commit().await.unwrap();
    row.get("value").unwrap()
}

pub(crate) async fn value(database: &Database, name: &str) -> Option<i64> {
    let row = database.row("SELECT value FROM counters WHERE name = $1", &[name.into()]).await.unwrap();
    row.map(|row| row.get("value").unwrap())
}

async fn replicas_that_start_together_migrate_once(database: TestDatabase) {
    let mut opening = JoinSet::new();
    for _ in 0..6 {
        let url = database.url().clone();
        opening.spawn(async move { Database::open(&url, &MIGRATIONS).await.unwrap() });
    }
    let replicas = opening.join_all().await;
    for replica in &replicas {
        raise(replica, "a").await;
    }
    assert_eq!(value(&replicas[0], "a").await, Some(6));
}

async fn writers_of_two_replicas_lose_nothing(database: TestDatabase) {
    let replicas = [open(&database).await, open(&database).await];
    let mut writing = JoinSet::new();
    for writer in 0..8 {
        let replica = replicas[writer % 2].clone();
        writing.spawn(async move {
            for _ in 0..25 {
                raise(&replica, "a").await;
            }
        });
    }
    writing.join_all().await;
    assert_eq!(value(&replicas[0], "a").await, Some(200));
}

async fn what_is_dropped_or_rolled_back_never_was(database: TestDatabase) {
    let database = open(&database).await;
    let mut dropped = database.begin().await.unwrap();
    dropped.row(RAISE, &["a".into()]).await.unwrap();
    drop(dropped);
    let mut undone = database.begin().await.unwrap();
    undone.row(RAISE, &["a".into()]).await.unwrap();
    undone.rollback().await.unwrap();
    assert_eq!(value(&database, "a").await, None);
    assert_eq!(raise(&database, "a").await, 1);
}

async fn writers_that_are_cancelled_anywhere_leave_the_database_usable(database: TestDatabase) {
    let database = open(&database).await;
    for micros in (0..4_000).step_by(40) {
        let _ = tokio::time::timeout(Duration::from_micros(micros), raise(&database, "a")).await;
    }
    // A write, since a read could overtake the commit of the last cancelled one.
    let before = raise(&database, "a").await;
    assert_eq!(raise(&database, "a").await, before + 1);
}

async fn a_statement_may_be_spelt_for_each_database(database: TestDatabase) {
    let database = open(&database).await;
    raise(&database, "a").await;
    raise(&database, "c").await;
    let named = Sql::each(
        "SELECT name FROM counters WHERE name IN (SELECT value FROM json_each($1)) ORDER BY name",
        "SELECT name FROM counters WHERE name IN (SELECT jsonb_array_elements_text($1::jsonb)) ORDER BY name",
    );
    let rows = database.rows(named, &[r#"["a","b","c"]"#.into()]).await.unwrap();
    let names: Vec<String> = rows.iter().map(|row| row.get("name").unwrap()).collect();
    assert_eq!(names, ["a", "c"]);
}

#[tokio::test]
async fn a_commit_to_sqlite_is_written_through_to_the_disk() {
    let folder = TestDatabase::sqlite();
    let database = open(&folder).await;
    let mut open = database.begin().await.unwrap();
    for (pragma, expected) in [("PRAGMA synchronous", 2), ("PRAGMA foreign_keys", 1)] {
        let row = open.row(pragma, &[]).await.unwrap().unwrap();
        let name = pragma.trim_start_matches("PRAGMA ");
        assert_eq!(row.get::<i64>(name).unwrap(), expected, "{pragma}");
    }
    let row = open.row("PRAGMA journal_mode", &[]).await.unwrap().unwrap();
    assert_eq!(row.get::<String>("journal_mode").unwrap(), "wal");
}

#[tokio::test]
async fn a_reader_of_sqlite_cannot_write() {
    let folder = TestDatabase::sqlite();
    let database = open(&folder).await;
    assert!(database.row(RAISE, &["a".into()]).await.is_err());
    assert_eq!(value(&database, "a").await, None);
}

/// Of a SQLite database: the file, and its log.
fn files(database: &TestDatabase) -> [PathBuf; 2] {
    let DatabaseUrl::Sqlite(file) = database.url() else { unreachable!() };
    [file.clone(), format!("{}-wal", file.display()).into()]
}

/// Also with a subscriber to changes, on a connection of its own.
#[tokio::test]
async fn after_a_clean_stop_the_file_alone_is_the_database() {
    let database = TestDatabase::sqlite();
    let replica = open(&database).await;
    let mut watching = replica.changes().subscribe("b");
    watching.changed().await;
    raise(&replica, "a").await;
    replica.close().await;

    let copy = TestDatabase::sqlite();
    let [[file, log], [copied, _]] = [files(&database), files(&copy)];
    std::fs::copy(&file, &copied).unwrap();
    assert_eq!(value(&open(&copy).await, "a").await, Some(1));
    assert_eq!(std::fs::metadata(&log).map_or(0, |about| about.len()), 0);
}

#[tokio::test]
async fn the_log_of_a_long_read_is_cut_down_afterwards() {
    const MUCH: &str = "INSERT INTO counters (name, value) VALUES (hex(zeroblob(20000000)), 1)";
    const LIMIT: u64 = 33 << 20;
    let database = TestDatabase::sqlite();
    let replica = open(&database).await;
    let [file, log] = files(&database);
    let size = || std::fs::metadata(&log).unwrap().len();
    raise(&replica, "a").await;
    let mut reader = SqliteConnectOptions::new().filename(file).connect().await.unwrap();
    reader.execute("BEGIN; SELECT count(*) FROM counters").await.unwrap();
    let mut open = replica.begin().await.unwrap();
    open.execute(MUCH, &[]).await.unwrap();
    open.commit().await.unwrap();
    raise(&replica, "a").await;
    assert!(size() > 2 * LIMIT, "{}", size());
    reader.execute("COMMIT").await.unwrap();
    // One carries the log over, the next begins it anew.
    for _ in 0..3 {
        raise(&replica, "a").await;
    }
    assert!(size() <= LIMIT, "{}", size());
}

on_both_databases!(
    replicas_that_start_together_migrate_once,
    writers_of_two_replicas_lose_nothing,
    what_is_dropped_or_rolled_back_never_was,
    writers_that_are_cancelled_anywhere_leave_the_database_usable,
    a_statement_may_be_spelt_for_each_database,
);
