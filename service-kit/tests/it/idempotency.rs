//! Repeated requests.

use std::time::{Duration, Instant};

use service_kit::{
    auth::Caller,
    database::{Database, Error, Migrations},
    idempotency::{
        Claim, IDEMPOTENCY, IdempotentRequest, ServiceAge, StoredResponse, claim, complete, delete_expired,
        lookup,
    },
    on_both_databases,
    testing::TestDatabase,
};
use tokio::task::JoinSet;

async fn open(database: &TestDatabase) -> Database {
    Database::open(database.url(), &IDEMPOTENCY).await.unwrap()
}

fn request(id: &str, body: &str) -> IdempotentRequest {
    IdempotentRequest::new(&Caller::Unrestricted, "Create", id, &body.to_owned())
}

async fn claimed(database: &Database, request: &IdempotentRequest, reference: &str) -> Claim {
    let mut unit = database.unit();
    loop {
        let mut open = unit.begin().await.unwrap();
        let done = claim(&mut open, request, reference).await;
        if let Some(done) = unit.end(open, done).await {
            return match done {
                Ok(()) => Claim::New,
                Err(Error::Missed) => lookup(database, request).await.unwrap(),
                Err(why) => panic!("{why}"),
            };
        }
    }
}

async fn settled(database: &Database, reference: &str, response: &str) {
    let mut open = database.begin().await.unwrap();
    complete(&mut open, "Create", reference, StoredResponse::message(&response.to_owned())).await.unwrap();
    open.commit().await.unwrap();
}

/// Lets more than [`RETENTION`](service_kit::idempotency::RETENTION) pass.
async fn age(database: &Database) {
    run(database, "UPDATE idempotency_age SET minutes = minutes + 1441").await;
}

async fn run(database: &Database, sql: &'static str) {
    let mut open = database.begin().await.unwrap();
    open.execute(sql, &[]).await.unwrap();
    open.commit().await.unwrap();
}

fn stored(response: &str) -> Claim {
    Claim::Stored(StoredResponse::message(&response.to_owned()))
}

async fn a_request_in_progress_gets_a_response_that_then_stays(database: TestDatabase) {
    let database = open(&database).await;
    let tea = request("1", "tea");
    assert_eq!(lookup(&database, &tea).await.unwrap(), Claim::New);
    assert_eq!(claimed(&database, &tea, "a").await, Claim::New);
    assert_eq!(claimed(&database, &tea, "b").await, Claim::InProgress("a".into()));
    settled(&database, "a", "done").await;
    settled(&database, "a", "twice").await;
    assert_eq!(claimed(&database, &tea, "b").await, stored("done"));
    assert_eq!(lookup(&database, &tea).await.unwrap(), stored("done"));
}

async fn an_id_is_for_one_body_of_one_method(database: TestDatabase) {
    let database = open(&database).await;
    claimed(&database, &request("1", "tea"), "a").await;
    assert_eq!(claimed(&database, &request("1", "mug"), "b").await, Claim::IdReused);
    settled(&database, "a", "done").await;
    assert_eq!(lookup(&database, &request("1", "mug")).await.unwrap(), Claim::IdReused);
    let elsewhere = IdempotentRequest::new(&Caller::Unrestricted, "Change", "1", &"tea".to_owned());
    assert_eq!(claimed(&database, &elsewhere, "c").await, Claim::New);
}

async fn a_claim_that_is_rolled_back_leaves_nothing(database: TestDatabase) {
    let database = open(&database).await;
    let mut open = database.begin().await.unwrap();
    claim(&mut open, &request("1", "tea"), "a").await.unwrap();
    open.rollback().await.unwrap();
    assert_eq!(claimed(&database, &request("1", "mug"), "b").await, Claim::New);
}

async fn of_many_at_once_one_is_new(database: TestDatabase) {
    let replicas = [open(&database).await, open(&database).await];
    let mut claiming = JoinSet::new();
    for n in 0..40 {
        let replica = replicas[n % 2].clone();
        claiming.spawn(async move { claimed(&replica, &request("1", "tea"), &n.to_string()).await });
    }
    let claims = claiming.join_all().await;
    assert_eq!(claims.iter().filter(|claim| **claim == Claim::New).count(), 1);
    assert!(claims.iter().all(|claim| matches!(claim, Claim::New | Claim::InProgress(_))));
}

async fn an_old_response_is_deleted_and_an_old_claim_is_not(database: TestDatabase) {
    let database = open(&database).await;
    claimed(&database, &request("1", "tea"), "a").await;
    claimed(&database, &request("2", "tea"), "b").await;
    settled(&database, "a", "done").await;
    run(&database, "UPDATE idempotency_age SET minutes = minutes + 1440").await;
    assert_eq!(delete_expired(&database).await.unwrap(), 0, "the minute of the claim was not a whole one");
    age(&database).await;
    assert_eq!(delete_expired(&database).await.unwrap(), 1);
    assert_eq!(lookup(&database, &request("1", "mug")).await.unwrap(), Claim::New);
    assert_eq!(lookup(&database, &request("2", "tea")).await.unwrap(), Claim::InProgress("b".into()));
    assert_eq!(claimed(&database, &request("1", "mug"), "c").await, Claim::New);
    settled(&database, "c", "done").await;
    age(&database).await;
    assert_eq!(delete_expired(&database).await.unwrap(), 1);
    assert_eq!(delete_expired(&database).await.unwrap(), 0);
    assert_eq!(claimed(&database, &request("2", "tea"), "d").await, Claim::InProgress("b".into()));
}

async fn a_response_does_not_expire_by_the_clock(database: TestDatabase) {
    let database = open(&database).await;
    let tea = request("1", "tea");
    claimed(&database, &tea, "a").await;
    settled(&database, "a", "done").await;
    // As after setting the clock forward by 25 hours.
    run(&database, "UPDATE idempotency SET expire_time = expire_time - 90000000000").await;
    assert_eq!(lookup(&database, &tea).await.unwrap(), stored("done"));
    assert_eq!(claimed(&database, &tea, "b").await, stored("done"));
    assert_eq!(delete_expired(&database).await.unwrap(), 0);
}

async fn the_age_advances_by_minutes_that_a_replica_has_seen(database: TestDatabase) {
    let database = open(&database).await;
    let minutes = async || {
        let row = database.row("SELECT minutes FROM idempotency_age", &[]).await.unwrap().unwrap();
        row.get::<i64>("minutes").unwrap()
    };
    let began = Instant::now();
    let (mut one, mut other) = (ServiceAge::default(), ServiceAge::default());
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
        age.advance(&database, || began + Duration::from_secs(second)).await.unwrap();
        assert_eq!(minutes().await, then, "{replica} after {second} s");
    }
    // A restarted replica has not seen a minute.
    for second in [600, 700, 800] {
        ServiceAge::default().advance(&database, || began + Duration::from_secs(second)).await.unwrap();
    }
    assert_eq!(minutes().await, 3);
}

/// The statement with which earlier versions claim a request for tea.
const OLD: &str = "INSERT INTO idempotency (caller, method, request_id, body, reference, expire_time) \
     VALUES ($1, 'Create', $2, $3, $2, 1)";

async fn known_requests_survive_a_migration(database: TestDatabase) {
    const FIRST: Migrations =
        Migrations { sqlite: &[IDEMPOTENCY.sqlite[0]], postgres: &[IDEMPOTENCY.postgres[0]] };
    let other = TestDatabase::sqlite();
    let other = open(&other).await;
    claimed(&other, &request("1", "tea"), "1").await;
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
    // By a replica of the earlier version.
    claim_as_before(&before, "3").await;
    settled(&before, "3", "done late").await;
    before.close().await;
    assert_eq!(claimed(&database, &request("1", "tea"), "x").await, stored("done"));
    assert_eq!(claimed(&database, &request("1", "mug"), "x").await, Claim::IdReused);
    assert_eq!(claimed(&database, &request("2", "tea"), "x").await, Claim::InProgress("2".into()));
    assert_eq!(claimed(&database, &request("3", "tea"), "x").await, stored("done late"));
    settled(&database, "2", "done too").await;
    assert_eq!(lookup(&database, &request("2", "tea")).await.unwrap(), stored("done too"));
    age(&database).await;
    assert_eq!(
        delete_expired(&database).await.unwrap(),
        0,
        "they count as if they were claimed at the migration"
    );
    age(&database).await;
    assert_eq!(delete_expired(&database).await.unwrap(), 3);
}

on_both_databases!(
    known_requests_survive_a_migration,
    a_request_in_progress_gets_a_response_that_then_stays,
    an_id_is_for_one_body_of_one_method,
    a_claim_that_is_rolled_back_leaves_nothing,
    of_many_at_once_one_is_new,
    an_old_response_is_deleted_and_an_old_claim_is_not,
    a_response_does_not_expire_by_the_clock,
    the_age_advances_by_minutes_that_a_replica_has_seen,
);
