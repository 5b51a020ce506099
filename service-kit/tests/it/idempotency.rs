//! Requests that are sent again.

use std::time::{Duration, Instant};

use service_kit::{
    auth::Caller,
    database::{Database, Error, Migrations},
    idempotency::{Age, Answer, Asked, Claim, IDEMPOTENCY, claim, forget, look, settle},
    on_both_databases,
    testing::TestDatabase,
};
use tokio::task::JoinSet;

async fn open(database: &TestDatabase) -> Database {
    Database::open(database.url(), &IDEMPOTENCY).await.unwrap()
}

fn asked(id: &str, body: &str) -> Asked {
    Asked::new(&Caller::Unrestricted, "Create", id, &body.to_owned())
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

/// Lets more than [`LIFE`](service_kit::idempotency::LIFE) pass.
async fn age(database: &Database) {
    run(database, "UPDATE idempotency_age SET minutes = minutes + 1441").await;
}

async fn run(database: &Database, sql: &'static str) {
    let mut open = database.begin().await.unwrap();
    open.execute(sql, &[]).await.unwrap();
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
    let elsewhere = Asked::new(&Caller::Unrestricted, "Change", "1", &"tea".to_owned());
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
    run(&database, "UPDATE idempotency_age SET minutes = minutes + 1440").await;
    assert_eq!(forget(&database).await.unwrap(), 0, "the minute of the claim was not a whole one");
    age(&database).await;
    assert_eq!(forget(&database).await.unwrap(), 1);
    assert_eq!(look(&database, &asked("1", "mug")).await.unwrap(), Claim::New);
    assert_eq!(look(&database, &asked("2", "tea")).await.unwrap(), Claim::Running("b".into()));
    assert_eq!(claimed(&database, &asked("1", "mug"), "c").await, Claim::New);
    settled(&database, "c", "done").await;
    age(&database).await;
    assert_eq!(forget(&database).await.unwrap(), 1);
    assert_eq!(forget(&database).await.unwrap(), 0);
    assert_eq!(claimed(&database, &asked("2", "tea"), "d").await, Claim::Running("b".into()));
}

async fn an_answer_is_known_whatever_the_clock_says(database: TestDatabase) {
    let database = open(&database).await;
    let tea = asked("1", "tea");
    claimed(&database, &tea, "a").await;
    settled(&database, "a", "done").await;
    // As it looks once the clock was set forward by 25 hours.
    run(&database, "UPDATE idempotency SET expire_time = expire_time - 90000000000").await;
    assert_eq!(look(&database, &tea).await.unwrap(), stored("done"));
    assert_eq!(claimed(&database, &tea, "b").await, stored("done"));
    assert_eq!(forget(&database).await.unwrap(), 0);
}

async fn the_age_grows_by_what_replicas_have_seen_pass(database: TestDatabase) {
    let database = open(&database).await;
    let minutes = async || {
        let row = database.row("SELECT minutes FROM idempotency_age", &[]).await.unwrap().unwrap();
        row.get::<i64>("minutes").unwrap()
    };
    let began = Instant::now();
    let (mut one, mut other) = (Age::default(), Age::default());
    for (replica, second, then) in [
        ("one", 0, 0),
        ("other", 30, 0),
        ("one", 59, 0),
        ("one", 60, 1),
        // It has not seen this one for a minute.
        ("other", 90, 1),
        ("one", 119, 1),
        ("other", 149, 1),
        ("other", 150, 2),
        ("one", 151, 2),
        ("one", 500, 3),
    ] {
        let age = if replica == "one" { &mut one } else { &mut other };
        age.grow(&database, || began + Duration::from_secs(second)).await.unwrap();
        assert_eq!(minutes().await, then, "{replica} after {second} s");
    }
    // Who is started anew has seen nothing pass.
    for second in [600, 700, 800] {
        Age::default().grow(&database, || began + Duration::from_secs(second)).await.unwrap();
    }
    assert_eq!(minutes().await, 3);
}

/// What every version writes for a request that has asked for tea.
const OLD: &str = "INSERT INTO idempotency (caller, method, request_id, body, reference, expire_time) \
     VALUES ($1, 'Create', $2, $3, $2, 1)";

async fn what_is_known_outlives_a_new_schema(database: TestDatabase) {
    const FIRST: Migrations =
        Migrations { sqlite: &[IDEMPOTENCY.sqlite[0]], postgres: &[IDEMPOTENCY.postgres[0]] };
    let other = TestDatabase::sqlite();
    let other = open(&other).await;
    claimed(&other, &asked("1", "tea"), "1").await;
    let tea = other.row("SELECT caller, body FROM idempotency", &[]).await.unwrap().unwrap();
    let claim_as_before = async |database: &Database, id: &str| {
        let (caller, body) = (tea.get::<String>("caller").unwrap(), tea.get::<Vec<u8>>("body").unwrap());
        let mut open = database.begin().await.unwrap();
        open.execute(OLD, &[caller.into(), id.into(), body.into()]).await.unwrap();
        open.commit().await.unwrap();
    };
    let before = Database::open(database.url(), &FIRST).await.unwrap();
    for id in ["1", "2"] {
        claim_as_before(&before, id).await;
    }
    settled(&before, "1", "done").await;

    let database = open(&database).await;
    // By a replica that is replaced later.
    claim_as_before(&before, "3").await;
    settled(&before, "3", "done late").await;
    before.close().await;
    assert_eq!(claimed(&database, &asked("1", "tea"), "x").await, stored("done"));
    assert_eq!(claimed(&database, &asked("1", "mug"), "x").await, Claim::Reused);
    assert_eq!(claimed(&database, &asked("2", "tea"), "x").await, Claim::Running("2".into()));
    assert_eq!(claimed(&database, &asked("3", "tea"), "x").await, stored("done late"));
    settled(&database, "2", "done too").await;
    assert_eq!(look(&database, &asked("2", "tea")).await.unwrap(), stored("done too"));
    age(&database).await;
    assert_eq!(forget(&database).await.unwrap(), 0, "they count as if they came a day later");
    age(&database).await;
    assert_eq!(forget(&database).await.unwrap(), 3);
}

on_both_databases!(
    what_is_known_outlives_a_new_schema,
    a_request_runs_and_is_then_answered_the_same_for_ever,
    an_id_is_for_one_body_of_one_method,
    a_claim_that_is_undone_never_was,
    of_many_at_once_one_is_new,
    an_old_answer_is_forgotten_and_an_old_claim_is_not,
    an_answer_is_known_whatever_the_clock_says,
    the_age_grows_by_what_replicas_have_seen_pass,
);
