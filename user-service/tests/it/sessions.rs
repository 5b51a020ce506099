//! `RefreshToken`.

use mesh_proto::shop::user::v1::RefreshTokenRequest;
use service_kit::{on_both_databases, testing::TestDatabase};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::app::{EMAIL, PASSWORD, TestApp, refused, update};

#[track_caller]
fn refused_token<T: std::fmt::Debug>(result: Result<T, Status>) {
    refused(result, Code::Unauthenticated, "REFRESH_TOKEN_INVALID");
}

async fn a_refresh_token_is_good_once(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let user = app.ada().await;
    let first = app.login(EMAIL, PASSWORD).await.unwrap();
    let second = app.refresh(&first.refresh_token).await.unwrap();
    assert_eq!((second.user.as_ref(), first.user.as_ref()), (Some(&user), Some(&user)));
    assert!(second.refresh_token != first.refresh_token && second.access_token != first.access_token);
    let third = app.refresh(&second.refresh_token).await.unwrap();
    assert!(app.refresh(&third.refresh_token).await.is_ok());
}

async fn a_reused_token_ends_its_session_and_no_other(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    app.ada().await;
    let stolen = app.login(EMAIL, PASSWORD).await.unwrap();
    let other = app.login(EMAIL, PASSWORD).await.unwrap();
    let next = app.refresh(&stolen.refresh_token).await.unwrap();
    let latest = app.refresh(&next.refresh_token).await.unwrap();
    refused_token(app.refresh(&stolen.refresh_token).await);
    refused_token(app.refresh(&latest.refresh_token).await);
    assert!(app.refresh(&other.refresh_token).await.is_ok());
}

async fn one_of_many_concurrent_uses_of_a_token_succeeds_and_the_session_ends(database: TestDatabase) {
    let app = TestApp::with_replicas(database, 2).await;
    app.ada().await;
    let tokens = app.login(EMAIL, PASSWORD).await.unwrap();
    let mut refreshing = JoinSet::new();
    for n in 0..10 {
        let mut users = app.replica(n % 2);
        let request = RefreshTokenRequest { refresh_token: tokens.refresh_token.clone() };
        refreshing.spawn(async move { users.refresh_token(request).await });
    }
    let (done, refusals): (Vec<_>, Vec<_>) = refreshing.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!((done.len(), refusals.len()), (1, 9));
    let winner = done.into_iter().next().unwrap().unwrap().into_inner();
    refused_token(app.refresh(&winner.refresh_token).await);
}

async fn malformed_tokens_are_refused(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    app.ada().await;
    let good = app.login(EMAIL, PASSWORD).await.unwrap().refresh_token;
    let huge = "a".repeat(1 << 20);
    for bad in ["", "a", &"A".repeat(64), &huge, "'; DROP TABLE sessions; --", &format!("{good}A")] {
        refused_token(app.refresh(bad).await);
    }
    assert!(app.refresh(&good).await.is_ok());
}

async fn a_new_password_ends_every_session(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let user = app.ada().await;
    let mut tokens = Vec::new();
    for _ in 0..2 {
        tokens.push(app.login(EMAIL, PASSWORD).await.unwrap().refresh_token);
    }
    let mut renamed = update(&user, &["display_name"]);
    renamed.user.as_mut().unwrap().display_name = "Ada".into();
    app.update(renamed).await.unwrap();
    tokens[0] = app.refresh(&tokens[0]).await.unwrap().refresh_token;
    let mut request = update(&user, &["password"]);
    request.user.as_mut().unwrap().etag = String::new();
    request.password = "another long password".into();
    app.update(request).await.unwrap();
    for token in &tokens {
        refused_token(app.refresh(token).await);
    }
    refused(app.login(EMAIL, PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_WRONG");
    assert!(app.login(EMAIL, "another long password").await.is_ok());
}

async fn an_account_has_twenty_sessions_at_most(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    app.ada().await;
    let first = app.login(EMAIL, PASSWORD).await.unwrap().refresh_token;
    let mut used = app.login(EMAIL, PASSWORD).await.unwrap().refresh_token;
    for _ in 0..18 {
        app.login(EMAIL, PASSWORD).await.unwrap();
    }
    used = app.refresh(&used).await.unwrap().refresh_token;
    app.login(EMAIL, PASSWORD).await.unwrap();
    refused_token(app.refresh(&first).await);
    assert!(app.refresh(&used).await.is_ok());
}

on_both_databases!(
    a_refresh_token_is_good_once,
    a_reused_token_ends_its_session_and_no_other,
    one_of_many_concurrent_uses_of_a_token_succeeds_and_the_session_ends,
    malformed_tokens_are_refused,
    a_new_password_ends_every_session,
    an_account_has_twenty_sessions_at_most,
);
