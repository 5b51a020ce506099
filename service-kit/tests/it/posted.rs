//! Posted statements.

use service_kit::{
    database::{Database, Error, Transaction},
    on_both_databases,
    testing::TestDatabase,
};
use tokio::task::JoinSet;

use crate::database::{RAISE, open, raise, value};

const ADD: &str = "INSERT INTO counters (value, name) VALUES ($2, $1)";
const DOUBLE: &str = "UPDATE counters SET value = value * 2 WHERE name = $1";
const PLUS: &str = "UPDATE counters SET value = value + $2 WHERE name = $1";
const WRONG: &str = "INSERT INTO counters (name, value) VALUES ($1, NULL)";
const READ: &str = "SELECT name, value FROM counters WHERE value > $1 ORDER BY name";

async fn they_run_in_their_order_before_the_next(database: TestDatabase) {
    let database = open(&database).await;
    let mut open = database.begin().await.unwrap();
    open.post(ADD, &["a".into(), 3_i64.into()]).await.unwrap();
    open.post(DOUBLE, &["a".into()]).await.unwrap();
    open.post(PLUS, &["a".into(), 1_i64.into()]).await.unwrap();
    open.post(ADD, &["b".into(), 5_i64.into()]).await.unwrap();
    let rows = open.rows(READ, &[4_i64.into()]).await.unwrap();
    let read = rows.iter().map(|row| (row.get("name").unwrap(), row.get("value").unwrap()));
    let read: Vec<(String, i64)> = read.collect();
    assert_eq!(read, [("a".to_owned(), 7), ("b".to_owned(), 5)]);
    open.post(DOUBLE, &["b".into()]).await.unwrap();
    let touched = open.execute("UPDATE counters SET value = value + 1", &[]).await.unwrap();
    assert_eq!(touched, 2, "those of the last alone count");
    open.post(PLUS, &["b".into(), 100_i64.into()]).await.unwrap();
    let row = open.row(RAISE, &["b".into()]).await.unwrap().unwrap();
    assert_eq!(row.get::<i64>("value").unwrap(), 112);
    open.commit().await.unwrap();
    assert_eq!((value(&database, "a").await, value(&database, "b").await), (Some(8), Some(112)));
}

async fn the_commit_runs_what_is_left_of_them(database: TestDatabase) {
    let database = open(&database).await;
    raise(&database, "a").await;
    let mut open = database.begin().await.unwrap();
    for _ in 0..50 {
        open.post(PLUS, &["a".into(), 1_i64.into()]).await.unwrap();
    }
    open.commit().await.unwrap();
    assert_eq!(value(&database, "a").await, Some(51));
}

async fn a_rollback_runs_none_of_them(database: TestDatabase) {
    let database = open(&database).await;
    let mut undone = database.begin().await.unwrap();
    undone.post(ADD, &["a".into(), 1_i64.into()]).await.unwrap();
    undone.rollback().await.unwrap();
    let mut dropped = database.begin().await.unwrap();
    dropped.post(ADD, &["a".into(), 1_i64.into()]).await.unwrap();
    drop(dropped);
    raise(&database, "b").await;
    assert_eq!(value(&database, "a").await, None);
}

async fn add_and(open: &mut Transaction, name: &str, trouble: FailureCase) -> Result<(), Error> {
    if matches!(trouble, FailureCase::MissesAll) {
        open.require(PLUS, &[name.into(), 1_i64.into()]).await?;
        return open.post(DOUBLE, &[name.into()]).await;
    }
    open.post(ADD, &[name.into(), 1_i64.into()]).await?;
    match trouble {
        FailureCase::None | FailureCase::MissesAll => {}
        FailureCase::Fails => open.post(WRONG, &[name.into()]).await?,
        FailureCase::Misses => open.require(PLUS, &["missing".into(), 1_i64.into()]).await?,
        FailureCase::MissesThenFails => {
            open.require(PLUS, &["missing".into(), 1_i64.into()]).await?;
            open.post(WRONG, &[name.into()]).await?;
        }
    }
    open.post(DOUBLE, &[name.into()]).await
}

#[derive(Clone, Copy)]
enum FailureCase {
    None,
    Fails,
    Misses,
    /// For what it missed.
    MissesThenFails,
    /// And touches nothing at all.
    MissesAll,
}

async fn commit(database: &Database, name: &str, trouble: FailureCase) -> Result<(), Error> {
    let mut unit = database.unit();
    loop {
        let mut open = unit.begin().await?;
        let done = add_and(&mut open, name, trouble).await;
        if let Some(done) = unit.end(open, done).await {
            return done;
        }
    }
}

async fn one_that_fails_undoes_its_transaction_and_no_other(database: TestDatabase) {
    let database = open(&database).await;
    let mut writing = JoinSet::new();
    for number in 0..60 {
        let database = database.clone();
        writing.spawn(async move {
            let troubles = [
                FailureCase::None,
                FailureCase::Fails,
                FailureCase::Misses,
                FailureCase::MissesThenFails,
                FailureCase::MissesAll,
            ];
            let trouble = troubles[number % troubles.len()];
            let name = format!("n{number:02}");
            match (commit(&database, &name, trouble).await, trouble) {
                (Ok(()), FailureCase::None) => assert_eq!(value(&database, &name).await, Some(2)),
                (Err(Error::Unexpected(_)), FailureCase::Fails)
                | (
                    Err(Error::Missed),
                    FailureCase::Misses | FailureCase::MissesThenFails | FailureCase::MissesAll,
                ) => {
                    assert_eq!(value(&database, &name).await, None);
                }
                (done, _) => panic!("{name}: {done:?}"),
            }
        });
    }
    writing.join_all().await;
}

async fn many_at_once_are_each_whole(database: TestDatabase) {
    let database = open(&database).await;
    let mut writing = JoinSet::new();
    for number in 0..60 {
        let database = database.clone();
        writing.spawn(async move {
            commit(&database, &format!("n{number:02}"), FailureCase::None).await.unwrap();
        });
    }
    writing.join_all().await;
    let rows =
        database.rows("SELECT name, value FROM counters WHERE value = 2 AND name LIKE 'n%'", &[]).await;
    assert_eq!(rows.unwrap().len(), 60);
}

async fn who_misses_all_takes_nothing_from_others(database: TestDatabase) {
    let database = open(&database).await;
    let mut writing = JoinSet::new();
    for number in 0..60 {
        let database = database.clone();
        writing.spawn(async move {
            let name = format!("n{number:02}");
            let trouble = if number % 2 == 0 { FailureCase::None } else { FailureCase::MissesAll };
            let done = commit(&database, &name, trouble).await;
            assert_eq!(matches!(done, Err(Error::Missed)), number % 2 == 1, "{name}: {done:?}");
            assert_eq!(value(&database, &name).await, (number % 2 == 0).then_some(2));
        });
    }
    writing.join_all().await;
}

async fn nothing_is_kept_after_a_required_row_was_missed(database: TestDatabase) {
    let database = open(&database).await;
    let mut open = database.begin().await.unwrap();
    open.post(ADD, &["a".into(), 1_i64.into()]).await.unwrap();
    let missed = match open.require(PLUS, &["missing".into(), 1_i64.into()]).await {
        Ok(()) => open.row(READ, &[0_i64.into()]).await.map(drop),
        missed => missed,
    };
    assert!(matches!(missed, Err(Error::Missed)), "{missed:?}");
    let committed = open.commit().await;
    assert!(matches!(committed, Err(Error::Aborted)), "{committed:?}");
    assert_eq!(value(&database, "a").await, None);
}

on_both_databases!(
    they_run_in_their_order_before_the_next,
    the_commit_runs_what_is_left_of_them,
    a_rollback_runs_none_of_them,
    one_that_fails_undoes_its_transaction_and_no_other,
    many_at_once_are_each_whole,
    who_misses_all_takes_nothing_from_others,
    nothing_is_kept_after_a_required_row_was_missed,
);
