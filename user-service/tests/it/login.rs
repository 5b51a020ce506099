//! `Login` and the limit of its failures.

use std::{
    future::{Future, poll_fn},
    task::Poll,
    time::Duration,
};

use mesh_proto::shop::user::v1::{
    user_service_client::UserServiceClient,
    user_service_server::{UserService as _, UserServiceServer},
};
use service_kit::{
    auth::Auth,
    database::Database,
    events::Outbox,
    on_both_databases,
    service::Service,
    testing::{Replica, TestDatabase, mesh_to},
};
use tokio::task::JoinSet;
use tonic::{Code, Request, transport::server::TcpConnectInfo};
use user_service::{
    Clock, NAME, SUBSCRIBERS, UserService, Users,
    hasher::{HashError, Hasher},
    keys::{KeySchedule, Keyring},
    store::Store,
};

use crate::app::{EMAIL, PASSWORD, TestApp, login, refused, registration};

const WRONG: &str = "incorrect horse battery";

/// The handlers alone, with a clock and a count of hashes to look at.
struct Handlers {
    users: Users,
    hasher: Hasher,
    clock: Clock,
    _database: TestDatabase,
}

impl Handlers {
    async fn new(database: TestDatabase) -> Self {
        let open = Database::open(database.url(), &UserService::MIGRATIONS).await.unwrap();
        let (store, hasher, clock) =
            (Store::new(open, Outbox::new(NAME, SUBSCRIBERS)), Hasher::new(), Clock::system());
        let keys =
            Keyring::open(store.clone(), clock.clone(), KeySchedule::default(), Auth::off()).await.unwrap();
        let users = Users::new(store, hasher.clone(), keys, clock.clone());
        users.register(Request::new(registration(EMAIL, PASSWORD))).await.unwrap();
        Self { users, hasher, clock, _database: database }
    }

    /// The answer to a login, and the number of hashes it took.
    async fn login(&self, email: &str, password: &str) -> (Result<(), tonic::Status>, u64) {
        let before = self.hasher.hashed();
        let answer = self.users.login(Request::new(login(email, password))).await;
        (answer.map(drop), self.hasher.hashed() - before)
    }

    /// A login to [`EMAIL`] from the host of that number.
    async fn login_from(&self, host: u8, password: &str) -> Result<(), tonic::Status> {
        let mut request = Request::new(login(EMAIL, password));
        let remote_addr = Some(([192, 0, 2, host], 50_000).into());
        request.extensions_mut().insert(TcpConnectInfo { local_addr: None, remote_addr });
        self.users.login(request).await.map(drop)
    }
}

async fn wrong_in_address_and_wrong_in_password_are_one_answer(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    app.ada().await;
    let password = app.login(EMAIL, WRONG).await.unwrap_err();
    let address = app.login("bob@example.com", PASSWORD).await.unwrap_err();
    assert_eq!((password.message(), password.details()), (address.message(), address.details()));
    refused::<()>(Err(password), Code::Unauthenticated, "CREDENTIALS_WRONG");
    let tokens = app.login("ADA@Example.com", PASSWORD).await.unwrap();
    assert_eq!(tokens.user.unwrap().email, EMAIL);
}

async fn an_address_without_an_account_is_treated_as_one_with(database: TestDatabase) {
    let app = Handlers::new(database).await;
    let mut seen = Vec::new();
    for email in [EMAIL, "bob@example.com"] {
        let mut answers = Vec::new();
        for _ in 0..7 {
            let (answer, hashes) = app.login(email, WRONG).await;
            answers.push((answer.unwrap_err().code(), hashes));
        }
        seen.push(answers);
    }
    let (unknown, known) = (seen.pop().unwrap(), seen.pop().unwrap());
    assert_eq!(known, unknown);
    let expected = [(Code::Unauthenticated, 1); 5].into_iter().chain([(Code::ResourceExhausted, 0); 2]);
    assert_eq!(known, expected.collect::<Vec<_>>());
}

async fn after_five_failures_delays_grow(database: TestDatabase) {
    let app = Handlers::new(database).await;
    for _ in 0..5 {
        refused(app.login(EMAIL, WRONG).await.0, Code::Unauthenticated, "CREDENTIALS_WRONG");
    }
    for wait in [10, 20, 40, 80, 160, 320, 640, 900, 900] {
        // Every attempt is refused, also one with the right password.
        let details =
            refused(app.login(EMAIL, PASSWORD).await.0, Code::ResourceExhausted, "TOO_MANY_ATTEMPTS");
        let delay = details.retry_info().unwrap().retry_delay.unwrap();
        assert!(delay <= Duration::from_secs(wait) && delay > Duration::from_secs(wait - 5), "{delay:?}");
        app.clock.advance(delay);
        refused(app.login(EMAIL, WRONG).await.0, Code::Unauthenticated, "CREDENTIALS_WRONG");
    }
    app.clock.advance(Duration::from_secs(900));
    app.login(EMAIL, PASSWORD).await.0.unwrap();
    for _ in 0..5 {
        refused(app.login(EMAIL, WRONG).await.0, Code::Unauthenticated, "CREDENTIALS_WRONG");
    }
}

async fn guesses_from_one_address_do_not_lock_out_the_owner(database: TestDatabase) {
    let app = Handlers::new(database).await;
    for _ in 0..5 {
        refused(app.login_from(1, WRONG).await, Code::Unauthenticated, "CREDENTIALS_WRONG");
    }
    refused(app.login_from(1, PASSWORD).await, Code::ResourceExhausted, "TOO_MANY_ATTEMPTS");
    app.login_from(2, PASSWORD).await.unwrap();
    // The owner's login forgives the owner's address and no other.
    refused(app.login_from(1, PASSWORD).await, Code::ResourceExhausted, "TOO_MANY_ATTEMPTS");
}

async fn guesses_from_many_addresses_are_slowed_down_together(database: TestDatabase) {
    let app = Handlers::new(database).await;
    for n in 0..100 {
        refused(app.login_from(n / 5, WRONG).await, Code::Unauthenticated, "CREDENTIALS_WRONG");
    }
    let details = refused(app.login_from(200, PASSWORD).await, Code::ResourceExhausted, "TOO_MANY_ATTEMPTS");
    let delay = details.retry_info().unwrap().retry_delay.unwrap();
    assert!(delay <= Duration::from_secs(1), "{delay:?}");
    app.clock.advance(delay);
    app.login_from(200, PASSWORD).await.unwrap();
}

async fn an_hour_without_a_failure_forgets_them(database: TestDatabase) {
    let app = Handlers::new(database).await;
    for _ in 0..2 {
        for _ in 0..4 {
            refused(app.login(EMAIL, WRONG).await.0, Code::Unauthenticated, "CREDENTIALS_WRONG");
        }
        app.clock.advance(Duration::from_secs(3_600));
    }
}

async fn a_burst_of_guesses_through_two_replicas_is_cut_short(database: TestDatabase) {
    let app = TestApp::with_replicas(database, 2).await;
    app.ada().await;
    let mut guessing = JoinSet::new();
    for n in 0..60 {
        let mut users = app.replica(n % 2);
        guessing.spawn(async move { users.login(login(EMAIL, WRONG)).await.unwrap_err().code() });
    }
    let codes = guessing.join_all().await;
    let hashed = codes.iter().filter(|code| **code == Code::Unauthenticated).count();
    let refused = codes.iter().filter(|code| **code == Code::ResourceExhausted).count();
    // Attempts that were being hashed when the fifth failed are answered too.
    let cores = std::thread::available_parallelism().unwrap().get();
    assert_eq!(hashed + refused, 60, "{codes:?}");
    assert!((5..=5 + 4 * cores).contains(&hashed), "{hashed} guesses were hashed");
    let next = app.login(EMAIL, PASSWORD).await;
    super::app::refused(next, Code::ResourceExhausted, "TOO_MANY_ATTEMPTS");
}

async fn many_right_logins_at_once_all_succeed(database: TestDatabase) {
    let app = TestApp::with_replicas(database, 2).await;
    app.ada().await;
    let mut logins = JoinSet::new();
    for n in 0..12 {
        let mut users = app.replica(n % 2);
        logins.spawn(async move { users.login(login(EMAIL, PASSWORD)).await.map(drop) });
    }
    for answer in logins.join_all().await {
        answer.unwrap();
    }
}

async fn a_full_queue_answers_with_a_retry_delay(database: TestDatabase) {
    let app = Handlers::new(database).await;
    let server = mesh_to([]).serve(NAME).add_service(Auth::off().guard(UserServiceServer::new(app.users)));
    let replica =
        Replica::start(async move |listener, shutdown| Ok(server.run(listener, shutdown).await?)).await;
    let mut users = UserServiceClient::new(mesh_to([replica.address]).channel(NAME));
    let (mut permits, mut waiting) = (Vec::new(), Vec::new());
    loop {
        let mut permit = Box::pin(app.hasher.acquire());
        match poll_fn(|cx| Poll::Ready(permit.as_mut().poll(cx))).await {
            Poll::Ready(Ok(permit)) => permits.push(permit),
            Poll::Ready(Err(why)) => {
                assert!(matches!(why, HashError::Busy), "{why}");
                break;
            }
            Poll::Pending => waiting.push(permit),
        }
    }
    let before = app.hasher.hashed();
    let answer = users.login(login(EMAIL, PASSWORD)).await;
    let details = refused(answer, Code::ResourceExhausted, "TOO_MANY_LOGINS");
    assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_secs(1)));
    assert_eq!(app.hasher.hashed(), before);

    drop((permits, waiting));
    users.login(login(EMAIL, PASSWORD)).await.unwrap();
}

async fn malformed_passwords_are_refused_unhashed(database: TestDatabase) {
    let app = Handlers::new(database).await;
    for password in ["", &"a".repeat(129), &"a".repeat(1 << 20)] {
        let (answer, hashes) = app.login(EMAIL, password).await;
        assert_eq!((answer.unwrap_err().code(), hashes), (Code::InvalidArgument, 0));
    }
    let (answer, hashes) = app.login("no address", PASSWORD).await;
    assert_eq!((answer.unwrap_err().code(), hashes), (Code::InvalidArgument, 0));
}

on_both_databases!(
    wrong_in_address_and_wrong_in_password_are_one_answer,
    an_address_without_an_account_is_treated_as_one_with,
    after_five_failures_delays_grow,
    guesses_from_one_address_do_not_lock_out_the_owner,
    guesses_from_many_addresses_are_slowed_down_together,
    an_hour_without_a_failure_forgets_them,
    a_burst_of_guesses_through_two_replicas_is_cut_short,
    many_right_logins_at_once_all_succeed,
    a_full_queue_answers_with_a_retry_delay,
    malformed_passwords_are_refused_unhashed,
);
