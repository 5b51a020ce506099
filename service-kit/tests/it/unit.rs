//! Units of work that are in each other's way.

use std::{sync::Arc, time::Duration};

use service_kit::{
    database::{Database, Error, Sql, Transaction},
    testing::TestDatabase,
};
use tokio::{sync::Barrier, task::JoinSet, time::timeout};

use crate::database::{RAISE, open, raise, value};

async fn both(open: &mut Transaction, first: &str, second: &str, meet: &Barrier) -> Result<(), Error> {
    open.row(RAISE, &[first.into()]).await?;
    // Only the first time both are here; the one that is run again is alone.
    let _ = timeout(Duration::from_millis(300), meet.wait()).await;
    open.row(RAISE, &[second.into()]).await?;
    Ok(())
}

async fn crossed(database: Database, first: &'static str, second: &'static str, meet: Arc<Barrier>) -> usize {
    let mut unit = database.unit();
    let mut tries = 0;
    loop {
        tries += 1;
        let mut open = unit.begin().await.unwrap();
        let done = both(&mut open, first, second, &meet).await;
        if let Some(done) = unit.end(open, done).await {
            done.unwrap();
            return tries;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadlock_of_two_units_is_undone_and_tried_again() {
    let server = TestDatabase::postgres().await;
    let database = open(&server).await;
    for name in ["a", "b"] {
        raise(&database, name).await;
    }
    let meet = Arc::new(Barrier::new(2));
    let (one, other) = tokio::join!(
        crossed(database.clone(), "a", "b", meet.clone()),
        crossed(database.clone(), "b", "a", meet),
    );
    assert_eq!(one.max(other), 2, "there was no deadlock");
    assert_eq!((value(&database, "a").await, value(&database, "b").await), (Some(3), Some(3)));
}

const STRICT: Sql = Sql::each("SELECT 1", "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE");
const SUM: &str = "SELECT CAST(SUM(value) AS BIGINT) AS sum FROM counters";
const STORE: &str = "UPDATE counters SET value = $2 WHERE name = $1";

async fn raise_to_sum(open: &mut Transaction, meet: &Barrier) -> Result<(), Error> {
    open.execute(STRICT, &[]).await?;
    let sum: i64 = open.row(SUM, &[]).await?.unwrap().get("sum")?;
    let _ = timeout(Duration::from_millis(300), meet.wait()).await;
    open.execute(STORE, &["a".into(), (sum + 1).into()]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_that_cannot_be_put_in_an_order_are_tried_again() {
    let server = TestDatabase::postgres().await;
    let database = open(&server).await;
    raise(&database, "a").await;
    let meet = Arc::new(Barrier::new(2));
    let mut writing = JoinSet::new();
    for _ in 0..2 {
        let (database, meet) = (database.clone(), meet.clone());
        writing.spawn(async move {
            let mut unit = database.unit();
            let mut tries = 0;
            loop {
                tries += 1;
                let mut open = unit.begin().await.unwrap();
                let done = raise_to_sum(&mut open, &meet).await;
                if let Some(done) = unit.end(open, done).await {
                    done.unwrap();
                    return tries;
                }
            }
        });
    }
    let tries = writing.join_all().await;
    assert_eq!(tries.iter().max(), Some(&2), "there was no conflict");
    assert_eq!(value(&database, "a").await, Some(3));
}

/// Whoever writes is as large as the largest of these, and is moved several
/// times on its way.
#[tokio::test]
async fn what_is_awaited_to_write_is_small() {
    let file = TestDatabase::sqlite();
    let database = open(&file).await;
    let mut unit = database.unit();
    let begin = size_of_val(&unit.begin());
    let mut open = unit.begin().await.unwrap();
    let post = size_of_val(&open.post("", &[]));
    let row = size_of_val(&open.row("", &[]));
    let end = size_of_val(&unit.end(open, Ok::<_, Error>(())));
    let sizes = [begin, post, row, end];
    assert!(sizes.into_iter().all(|size| size <= 4_096), "{sizes:?} bytes");
}
