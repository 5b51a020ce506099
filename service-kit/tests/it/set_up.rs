//! What is said when a database cannot be opened.

use std::fs;

use service_kit::{
    database::{Database, Migration, Migrations},
    on_both_databases,
    testing::TestDatabase,
};

use crate::database::{MIGRATIONS, open};

async fn refusal(url: &str, migrations: &Migrations) -> String {
    let why = Database::open(&url.parse().unwrap(), migrations).await.unwrap_err().to_string();
    assert!(!why.contains('\n') && !why.contains("hunter2"), "{why}");
    why
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_named_with_how_to_mend_it() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let why = refusal(&format!("sqlite:{}/a.db", missing.display()), &MIGRATIONS).await;
    assert!(why.contains("No such file") && why.contains(&format!("make the folder {}", missing.display())));
}

#[tokio::test]
async fn a_file_that_is_no_database_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("thesis.txt");
    let text = "chapter one ".repeat(1_000);
    fs::write(&file, &text).unwrap();
    let why = refusal(&format!("sqlite:{}", file.display()), &MIGRATIONS).await;
    assert!(why.contains("it is not a database"), "{why}");
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
    assert!(why.contains("a newer version has been here"), "{why}");
    const CHANGED: &[Migration] = &[Migration { name: "counters", sql: "CREATE TABLE other (name TEXT)" }];
    let changed = Migrations { sqlite: CHANGED, postgres: CHANGED };
    let why = Database::open(database.url(), &changed).await.unwrap_err().to_string();
    assert!(why.contains("changed by hand"), "{why}");
}

on_both_databases!(a_newer_schema_and_a_changed_one_are_refused);
