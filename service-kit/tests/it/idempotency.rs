//! Requests that are sent again.

use service_kit::{
    auth::Caller,
    database::{Database, Error, Migrations},
    idempotency::{Answer, Asked, Claim, IDEMPOTENCY, claim, forget, look, settle},
    on_both_databases,
    testing::TestDatabase,
};
use tokio::task::JoinSet;

async fn open(database: &TestDatabase) -> Database {
    Database::open(database.url(), &IDEMPOTENCY).await.unwrap()
}

fn asked(id: &str, body: &str) -> Asked {
    Asked::new(&Caller::Anyone, "Create", id, &body.to_owned())
}

async fn claimed(database: &Database, asked: &Asked, reference: &str) -> Claim {
    let mut unit = database.unit();
    loop {
        let mut open = unit.begin().await.unwrap();
        let done = claim(&mut open, asked, reference).await;
        if let Some(done) = unit.end(open, done).await {
            return match done {
                Ok(()) => Claim::New,
                Err(Error::Missed) => look(database, asked).await.unwrap(),
                Err(why) => panic!("{why}"),
            };
        }
    }
}

async fn settled(database: &Database, reference: &str, answer: &str) {
    let mut open = database.begin().await.unwrap();
    settle(&mut open, "Create", reference, Answer::reply(&answer.to_owned())).await.unwrap();
    open.commit().await.unwrap();
}

async fn age(database: &Database) {
    let mut open = database.begin().await.unwrap();
    open.execute("UPDATE idempotency SET expire_time = 1", &[]).await.unwrap();
    open.commit().await.unwrap();
}

fn stored(answer: &str) -> Claim {
    Claim::Stored(Answer::reply(&answer.to_owned()))
}

async fn a_request_runs_and_is_then_answered_the_same_for_ever(database: TestDatabase) {
    let database = open(&database).await;
    let tea = asked("1", "tea");
    assert_eq!(look(&database, &tea).await.unwrap(), Claim::New);
    assert_eq!(claimed(&database, &tea, "a").await, Claim::New);
    assert_eq!(claimed(&database, &tea, "b").await, Claim::Running("a".into()));
    settled(&database, "a", "done").await;
    settled(&database, "a", "twice").await;
    assert_eq!(claimed(&database, &tea, "b").await, stored("done"));
    assert_eq!(look(&database, &tea).await.unwrap(), stored("done"));
}

async fn an_id_is_for_one_body_of_one_method(database: TestDatabase) {
    let database = open(&database).await;
    claimed(&database, &asked("1", "tea"), "a").await;
    assert_eq!(claimed(&database, &asked("1", "mug"), "b").await, Claim::Reused);
    settled(&database, "a", "done").await;
    assert_eq!(look(&database, &asked("1", "mug")).await.unwrap(), Claim::Reused);
    let elsewhere = Asked::new(&Caller::Anyone, "Change", "1", &"tea".to_owned());
    assert_eq!(claimed(&database, &elsewhere, "c").await, Claim::New);
}

async fn a_claim_that_is_undone_never_was(database: TestDatabase) {
    let database = open(&database).await;
    let mut open = database.begin().await.unwrap();
    claim(&mut open, &asked("1", "tea"), "a").await.unwrap();
    open.rollback().await.unwrap();
    assert_eq!(claimed(&database, &asked("1", "mug"), "b").await, Claim::New);
}

async fn of_many_at_once_one_is_new(database: TestDatabase) {
    let replicas = [open(&database).await, open(&database).await];
    let mut claiming = JoinSet::new();
    for n in 0..40 {
        let replica = replicas[n % 2].clone();
        claiming.spawn(async move { claimed(&replica, &asked("1", "tea"), &n.to_string()).await });
    }
    let claims = claiming.join_all().await;
    assert_eq!(claims.iter().filter(|claim| **claim == Claim::New).count(), 1);
    assert!(claims.iter().all(|claim| matches!(claim, Claim::New | Claim::Running(_))));
}

async fn an_old_answer_is_forgotten_and_an_old_claim_is_not(database: TestDatabase) {
    let database = open(&database).await;
    claimed(&database, &asked("1", "tea"), "a").await;
    claimed(&database, &asked("2", "tea"), "b").await;
    settled(&database, "a", "done").await;
    age(&database).await;
    assert_eq!(look(&database, &asked("1", "mug")).await.unwrap(), Claim::New);
    assert_eq!(look(&database, &asked("2", "tea")).await.unwrap(), Claim::Running("b".into()));
    assert_eq!(claimed(&database, &asked("1", "mug"), "c").await, Claim::New);
    settled(&database, "c", "done").await;
    age(&database).await;
    assert_eq!(forget(&database).await.unwrap(), 1);
    assert_eq!(forget(&database).await.unwrap(), 0);
    assert_eq!(claimed(&database, &asked("2", "tea"), "d").await, Claim::Running("b".into()));
}

async fn what_is_known_outlives_a_new_schema(database: TestDatabase) {
    const FIRST: Migrations =
        Migrations { sqlite: &[IDEMPOTENCY.sqlite[0]], postgres: &[IDEMPOTENCY.postgres[0]] };
    let before = Database::open(database.url(), &FIRST).await.unwrap();
    for id in ["1", "2"] {
        assert_eq!(claimed(&before, &asked(id, "tea"), id).await, Claim::New);
    }
    settled(&before, "1", "done").await;
    before.close().await;

    let database = open(&database).await;
    assert_eq!(claimed(&database, &asked("1", "tea"), "x").await, stored("done"));
    assert_eq!(claimed(&database, &asked("1", "mug"), "x").await, Claim::Reused);
    assert_eq!(claimed(&database, &asked("2", "tea"), "x").await, Claim::Running("2".into()));
    settled(&database, "2", "done too").await;
    assert_eq!(look(&database, &asked("2", "tea")).await.unwrap(), stored("done too"));
    age(&database).await;
    assert_eq!(forget(&database).await.unwrap(), 2);
}

on_both_databases!(
    what_is_known_outlives_a_new_schema,
    a_request_runs_and_is_then_answered_the_same_for_ever,
    an_id_is_for_one_body_of_one_method,
    a_claim_that_is_undone_never_was,
    of_many_at_once_one_is_new,
    an_old_answer_is_forgotten_and_an_old_claim_is_not,
);
