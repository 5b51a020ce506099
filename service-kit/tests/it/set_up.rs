//! Errors when a database cannot be opened.

use std::fs;

use service_kit::{
    database::{Database, Migration, Migrations, Sql},
    on_both_databases,
    testing::TestDatabase,
};

use tokio::task::JoinSet;

use crate::database::{MIGRATIONS, open, raise};

async fn refusal(url: &str, migrations: &Migrations) -> String {
    let why = Database::open(&url.parse().unwrap(), migrations).await.unwrap_err().to_string();
    assert!(!why.contains('\n') && !why.contains("hunter2"), "{why}");
    why
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_named_with_how_to_repair_it() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let why = refusal(&format!("sqlite:{}/a.db", missing.display()), &MIGRATIONS).await;
    assert!(
        why.contains("No such file") && why.contains(&format!("create the folder {}", missing.display()))
    );
}

#[tokio::test]
async fn a_file_that_is_no_database_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("thesis.txt");
    let text = "chapter one ".repeat(1_000);
    fs::write(&file, &text).unwrap();
    let why = refusal(&format!("sqlite:{}", file.display()), &MIGRATIONS).await;
    assert!(why.contains("the file is not a database"), "{why}");
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

#[tokio::test]
async fn a_place_that_cannot_be_written_is_said_so() {
    let folder = tempfile::tempdir().unwrap();
    let why = refusal(&format!("sqlite:{}", folder.path().display()), &MIGRATIONS).await;
    assert!(why.contains("directory") && why.contains("change DATABASE_URL"), "{why}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_without_the_password() {
    // Nothing listens on a port that was just given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let why = refusal(&format!("postgres://shop:hunter2@127.0.0.1:{port}/cart"), &MIGRATIONS).await;
    assert!(why.contains(&format!("postgres://shop@127.0.0.1:{port}/cart")), "{why}");
    assert!(why.contains("refused") && why.contains("start the server"), "{why}");
}

#[tokio::test]
async fn a_database_that_the_server_lacks_is_named() {
    let server = TestDatabase::postgres().await;
    let service_kit::database::DatabaseUrl::Postgres(options) = server.url() else { unreachable!() };
    let url = service_kit::database::DatabaseUrl::Postgres(Box::new(options.clone().database("nowhere")));
    let why = Database::open(&url, &MIGRATIONS).await.unwrap_err().to_string();
    assert!(why.contains("nowhere") && why.contains("create that database"), "{why}");
}

#[tokio::test]
async fn a_database_is_its_owners_alone_with_what_sqlite_puts_beside_it() {
    use std::os::unix::fs::PermissionsExt;
    let database = TestDatabase::sqlite();
    let service_kit::database::DatabaseUrl::Sqlite(file) = database.url() else { unreachable!() };
    let _open = open(&database).await;
    for ending in ["", "-wal", "-shm"] {
        let file = format!("{}{ending}", file.display());
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

async fn a_newer_schema_and_a_changed_one_are_refused(database: TestDatabase) {
    drop(open(&database).await);
    let older = Migrations { sqlite: &[], postgres: &[] };
    let why = Database::open(database.url(), &older).await.unwrap_err().to_string();
    assert!(why.contains("run the newer program"), "{why}");
    const CHANGED: &[Migration] = &[Migration { name: "counters", sql: "CREATE TABLE other (name TEXT)" }];
    let changed = Migrations { sqlite: CHANGED, postgres: CHANGED };
    let why = Database::open(database.url(), &changed).await.unwrap_err().to_string();
    assert!(why.contains("changed by hand"), "{why}");
}

/// The steps of three releases: one expands, the next drops what only the first
/// of them needs.
const RELEASES: [&[Migration]; 3] = {
    const NOTES: Migration = Migration {
        name: "notes",
        sql: "-- expand\nALTER TABLE counters ADD COLUMN note TEXT NOT NULL DEFAULT ''",
    };
    const COUNTS: Migration =
        Migration { name: "counts", sql: "-- contract 1\nALTER TABLE counters RENAME COLUMN value TO count" };
    const COUNTERS: Migration = MIGRATIONS.sqlite[0];
    [&[COUNTERS], &[COUNTERS, NOTES], &[COUNTERS, NOTES, COUNTS]]
};

fn release(number: usize) -> Migrations {
    Migrations { sqlite: RELEASES[number], postgres: RELEASES[number] }
}

/// More than the connections of the pool.
const CALLERS: usize = 20;

/// On SQLite statements name their columns: a `*` that was prepared before
/// a column was added breaks the connection, in sqlx.
const READ: Sql = Sql::each("SELECT name, value FROM counters", "SELECT c.* FROM counters c");
const TOUCH: Sql = Sql::each(
    "UPDATE counters SET value = value RETURNING name, value",
    "UPDATE counters SET value = value RETURNING *",
);

async fn read_with_all_sessions(database: &Database) {
    let mut reading = JoinSet::new();
    for _ in 0..CALLERS {
        let database = database.clone();
        reading.spawn(async move {
            for _ in 0..10 {
                assert_eq!(database.rows(READ, &[]).await.unwrap().len(), 1);
            }
        });
    }
    reading.join_all().await;
}

async fn touch_with_all_sessions(database: &Database) {
    let mut writing = JoinSet::new();
    for _ in 0..CALLERS {
        let database = database.clone();
        writing.spawn(async move {
            let mut unit = database.unit();
            loop {
                let mut open = unit.begin().await.unwrap();
                let touched = open.row(TOUCH, &[]).await;
                if let Some(touched) = unit.end(open, touched).await {
                    touched.unwrap();
                    return;
                }
            }
        });
    }
    writing.join_all().await;
}

async fn a_program_runs_on_what_the_next_has_expanded_and_not_on_what_it_has_contracted(
    database: TestDatabase,
) {
    let old = Database::open(database.url(), &release(0)).await.unwrap();
    raise(&old, "a").await;
    read_with_all_sessions(&old).await;
    touch_with_all_sessions(&old).await;
    let newer = Database::open(database.url(), &release(1)).await.unwrap();
    // The prepared statements of the old replica select one column less.
    read_with_all_sessions(&old).await;
    touch_with_all_sessions(&old).await;
    let version = Database::version(database.url(), &release(0)).await.unwrap();
    assert!(version.is_newer() && !version.is_too_new(), "{version:?}");
    // A restarted replica of the earlier version can still write.
    old.close().await;
    let old = Database::open(database.url(), &release(0)).await.unwrap();
    assert_eq!(raise(&old, "a").await, 2);
    assert_eq!(raise(&newer, "a").await, 3);
    let row = newer.row("SELECT note FROM counters", &[]).await.unwrap().unwrap();
    assert_eq!(row.get::<String>("note").unwrap(), "");
    old.close().await;

    let newest = Database::open(database.url(), &release(2)).await.unwrap();
    let row = newest.row("SELECT count FROM counters", &[]).await.unwrap().unwrap();
    assert_eq!(row.get::<i64>("count").unwrap(), 3);
    Database::open(database.url(), &release(1)).await.unwrap();
    let why = Database::open(database.url(), &release(0)).await.unwrap_err().to_string();
    assert!(why.contains("version 3, which needs a program that knows version 2"), "{why}");
    assert!(why.contains("knows versions up to 1; run the newer program"), "{why}");
    assert!(Database::version(database.url(), &release(0)).await.unwrap().is_too_new());
}

on_both_databases!(
    a_newer_schema_and_a_changed_one_are_refused,
    a_program_runs_on_what_the_next_has_expanded_and_not_on_what_it_has_contracted,
);
