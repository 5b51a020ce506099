//! Outdated rows are deleted, and no others.

use std::time::Duration;

use mesh_proto::shop::user::v1::user_service_server::UserService as _;
use service_kit::{
    auth::Auth, database::Database, events::Outbox, on_both_databases, service::Service,
    testing::TestDatabase, timestamp::Timestamp,
};
use tonic::Request;
use user_service::{
    Clock, NAME, SUBSCRIBERS, UserService, Users,
    domain::Email,
    hasher::Hasher,
    keys::{KeySchedule, Keyring},
    login_limit::FailureSubject,
    store::Store,
};

use crate::app::{EMAIL, PASSWORD, login, registration};

const DAY: Duration = Duration::from_hours(24);
const HOUR: Duration = Duration::from_hours(1);

/// A store with a clock, and the rows to look at.
struct TestStore {
    store: Store,
    clock: Clock,
    open: Database,
    _database: TestDatabase,
}

impl TestStore {
    async fn new(database: TestDatabase) -> Self {
        let open = Database::open(database.url(), &UserService::MIGRATIONS).await.unwrap();
        let store = Store::new(open.clone(), Outbox::new(NAME, SUBSCRIBERS));
        Self { store, clock: Clock::system(), open, _database: database }
    }

    async fn texts(&self, sql: &'static str) -> Vec<String> {
        let rows = self.open.rows(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get("text").unwrap()).collect()
    }

    /// The subjects with stored failures.
    async fn subjects(&self) -> Vec<String> {
        self.texts("SELECT subject AS text FROM login_failures ORDER BY last_time").await
    }
}

async fn expired_sessions_are_deleted(database: TestDatabase) {
    let test = TestStore::new(database).await;
    let (store, clock) = (test.store.clone(), test.clock.clone());
    let keys =
        Keyring::open(store.clone(), clock.clone(), KeySchedule::default(), Auth::off()).await.unwrap();
    let users = Users::new(store.clone(), Hasher::new(), keys, clock.clone());
    users.register(Request::new(registration(EMAIL, PASSWORD))).await.unwrap();
    let sessions = "SELECT session_id AS text FROM sessions ORDER BY create_time";
    let begin = async || users.login(Request::new(login(EMAIL, PASSWORD))).await.unwrap();

    begin().await;
    clock.advance(HOUR);
    begin().await;
    let both = test.texts(sessions).await;
    assert_eq!(both.len(), 2);

    clock.advance(30 * DAY - 2 * HOUR);
    assert_eq!(store.delete_old_sessions(clock.now()).await.unwrap(), 0);
    clock.advance(HOUR + Duration::from_secs(1));
    assert_eq!(store.delete_old_sessions(clock.now()).await.unwrap(), 1);
    assert_eq!(test.texts(sessions).await, both[1..]);
    clock.advance(HOUR);
    assert_eq!(store.delete_old_sessions(clock.now()).await.unwrap(), 1);
    assert_eq!(test.texts(sessions).await, [""; 0]);
}

async fn old_failures_are_deleted(database: TestDatabase) {
    let test = TestStore::new(database).await;
    let subject = |email: &str| FailureSubject::account(&Email::parse(email).unwrap());
    let (ada, bob) = (subject(EMAIL), subject("bob@example.com"));
    test.store.count_failure(std::slice::from_ref(&ada), test.clock.now()).await.unwrap();
    test.clock.advance(HOUR / 2);
    test.store.count_failure(std::slice::from_ref(&bob), test.clock.now()).await.unwrap();
    assert_eq!(test.store.delete_old_failures(test.clock.now()).await.unwrap(), 0);
    assert_eq!(test.subjects().await, [ada.key(), bob.key()]);
    test.clock.advance(HOUR / 2);
    assert_eq!(test.store.delete_old_failures(test.clock.now()).await.unwrap(), 1);
    assert_eq!(test.subjects().await, [bob.key()]);
}

/// Failures under any number of names take bounded space.
async fn the_oldest_of_too_many_failures_are_deleted(database: TestDatabase) {
    const MANY: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100003) \
         INSERT INTO login_failures (subject, failures, last_time) SELECT 'account:' || i, 1, $1 + i FROM n";
    let test = TestStore::new(database).await;
    let mut open = test.open.begin().await.unwrap();
    open.execute(MANY, &[(Timestamp::now().micros() - 200_000).into()]).await.unwrap();
    open.commit().await.unwrap();
    assert_eq!(test.store.delete_old_failures(test.clock.now()).await.unwrap(), 3);
    let left = test.subjects().await;
    assert_eq!((left.len(), left[0].as_str()), (100_000, "account:4"));
}

async fn old_notifications_are_deleted(database: TestDatabase) {
    const ROW: &str = "INSERT INTO notifications \
         (customer_id, position, event_id, order_id, order_etag, text, create_time) \
         VALUES ('ada', $1, 'event', 'order', '1', $2, $3)";
    let test = TestStore::new(database).await;
    let mut open = test.open.begin().await.unwrap();
    for (position, text, days) in [(1_i64, "old", 91), (2, "young", 89)] {
        let made = test.clock.now().micros() - i64::try_from((days * DAY).as_micros()).unwrap();
        open.execute(ROW, &[position.into(), text.into(), made.into()]).await.unwrap();
    }
    open.commit().await.unwrap();
    assert_eq!(test.store.delete_old_notifications(test.clock.now()).await.unwrap(), 1);
    assert_eq!(test.texts("SELECT text FROM notifications").await, ["young"]);
}

on_both_databases!(
    old_notifications_are_deleted,
    expired_sessions_are_deleted,
    old_failures_are_deleted,
    the_oldest_of_too_many_failures_are_deleted,
);
