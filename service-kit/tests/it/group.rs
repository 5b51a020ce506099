//! Transactions that are committed with others.

use std::time::{Duration, Instant};

use service_kit::{
    database::{Database, Error},
    on_both_databases,
    testing::TestDatabase,
};
use tokio::task::JoinSet;

use crate::database::{RAISE, open, raise, value};

const CLAIM: &str = "INSERT INTO counters (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";
const WRONG: &str = "INSERT INTO counters (name, value) VALUES ($1, NULL)";

async fn write(database: &Database, number: i64) -> Result<i64, Error> {
    let mut open = database.begin().await?;
    let name = format!("counter {}", number % 7);
    open.execute(RAISE, &[name.as_str().into()]).await?;
    match number % 5 {
        0 => open.rollback().await.map(|()| 0),
        1 => {
            drop(open);
            Ok(0)
        }
        2 => {
            open.execute(WRONG, &["wrong".into()]).await.unwrap_err();
            drop(open);
            Ok(0)
        }
        _ => open.commit().await.map(|()| 1),
    }
}

async fn those_that_fail_cost_the_others_nothing(database: TestDatabase) {
    let database = open(&database).await;
    let mut writing = JoinSet::new();
    for number in 0..500 {
        let database = database.clone();
        writing.spawn(async move { write(&database, number).await.unwrap() });
    }
    let kept: i64 = writing.join_all().await.into_iter().sum();
    assert_eq!(kept, 200);
    let row = database.row("SELECT CAST(SUM(value) AS BIGINT) AS sum FROM counters", &[]).await.unwrap();
    assert_eq!(row.unwrap().get::<i64>("sum").unwrap(), 200);
    assert_eq!(value(&database, "wrong").await, None);
}

async fn those_that_are_cancelled_anywhere_cost_the_others_nothing(database: TestDatabase) {
    let database = open(&database).await;
    let mut writing = JoinSet::new();
    for number in 0..400_u64 {
        let database = database.clone();
        writing.spawn(async move {
            let limit = Duration::from_micros(if number % 2 == 0 { number * 20 } else { 10_000_000 });
            let name = if number % 2 == 0 { "cancelled" } else { "whole" };
            let done = tokio::time::timeout(limit, raise(&database, name)).await;
            i64::from(done.is_ok() && number % 2 == 1)
        });
    }
    let whole: i64 = writing.join_all().await.into_iter().sum();
    assert_eq!((whole, value(&database, "whole").await), (200, Some(200)));
}

async fn nothing_is_acknowledged_after_a_statement_has_failed(database: TestDatabase) {
    let database = open(&database).await;
    let mut open = database.begin().await.unwrap();
    open.execute(RAISE, &["a".into()]).await.unwrap();
    open.execute(WRONG, &["b".into()]).await.unwrap_err();
    let more = open.execute(RAISE, &["a".into()]).await;
    assert!(matches!(more, Err(Error::Aborted)), "{more:?}");
    let committed = open.commit().await;
    assert!(matches!(committed, Err(Error::Aborted)), "{committed:?}");
    assert_eq!(value(&database, "a").await, None);
}

async fn who_lost_to_another_finds_what_it_wrote(database: TestDatabase) {
    let database = open(&database).await;
    for round in 0..20 {
        let mut claiming = JoinSet::new();
        for number in 0..10_i64 {
            let database = database.clone();
            claiming.spawn(async move {
                let name = format!("claim {round}");
                let mut open = database.begin().await.unwrap();
                if open.execute(CLAIM, &[name.as_str().into(), number.into()]).await.unwrap() == 1 {
                    open.commit().await.unwrap();
                    return number;
                }
                open.rollback().await.unwrap();
                value(&database, &name).await.expect("what was in the way is there")
            });
        }
        let winners = claiming.join_all().await;
        assert!(winners.iter().all(|winner| *winner == winners[0]), "{winners:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_never_rests_leaves_others_their_turn() {
    let file = TestDatabase::sqlite();
    let (busy, other) = (open(&file).await, open(&file).await);
    let mut writing = JoinSet::new();
    for _ in 0..32 {
        let busy = busy.clone();
        writing.spawn(async move {
            loop {
                raise(&busy, "busy").await;
            }
        });
    }
    let began = Instant::now();
    for _ in 0..10 {
        raise(&other, "other").await;
    }
    // A wait is some 20 ms; without the pauses for others most are seconds.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(4), "ten writes took {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_keeps_its_turn_too_long_loses_it() {
    let file = TestDatabase::sqlite();
    let database = open(&file).await;
    let mut slow = database.begin().await.unwrap();
    slow.execute(RAISE, &["slow".into()]).await.unwrap();
    // Waits for its turn for less than a transaction may wait.
    assert_eq!(raise(&database, "a").await, 1);
    let late = slow.execute(RAISE, &["slow".into()]).await;
    assert!(matches!(late, Err(Error::Slow(_))), "{late:?}");
    assert!(slow.commit().await.is_err());
    assert_eq!(value(&database, "slow").await, None);
}

on_both_databases!(
    those_that_fail_cost_the_others_nothing,
    those_that_are_cancelled_anywhere_cost_the_others_nothing,
    nothing_is_acknowledged_after_a_statement_has_failed,
    who_lost_to_another_finds_what_it_wrote,
);
