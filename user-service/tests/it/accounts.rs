//! `UpdateUser` and `DeleteUser`.

use mesh_proto::shop::user::v1::{Role, UpdateUserRequest, User};
use service_kit::{on_both_databases, testing::TestDatabase};
use tonic::Code;

use crate::app::{EMAIL, PASSWORD, TestApp, refused, refused_field, update};

fn renamed(user: &User, name: &str) -> UpdateUserRequest {
    let mut request = update(user, &["display_name"]);
    request.user.as_mut().unwrap().display_name = name.into();
    request
}

async fn only_fields_of_the_mask_change(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let before = app.ada().await;
    let changes = User {
        email: "Bob@example.com".into(),
        display_name: "Bob".into(),
        roles: vec![Role::Admin.into(), Role::Staff.into()],
        etag: String::new(),
        ..before.clone()
    };
    let mut expected = before.clone();
    for (path, etag) in [("display_name", "2"), ("email", "3"), ("roles", "4")] {
        let after = app.update(update(&changes, &[path])).await.unwrap();
        match path {
            "display_name" => expected.display_name = "Bob".into(),
            "email" => expected.email = "bob@example.com".into(),
            _ => expected.roles = vec![Role::Staff.into(), Role::Admin.into()],
        }
        assert!(after.update_time.unwrap().nanos != before.update_time.unwrap().nanos || after != before);
        (expected.update_time, expected.etag) = (after.update_time, etag.into());
        assert_eq!(after, expected);
        assert_eq!(app.get(&before.user_id).await.unwrap(), expected);
    }
    app.login("bob@example.com", PASSWORD).await.unwrap();
    refused(app.login(EMAIL, PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_WRONG");
    // The address that was left can be taken.
    app.ada().await;
}

async fn the_same_change_again_changes_nothing(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let user = app.ada().await;
    let after = app.update(renamed(&user, "Bob")).await.unwrap();
    assert_eq!(app.update(renamed(&user, "Bob")).await.unwrap(), after);
    assert_eq!(app.update(renamed(&after, "Bob")).await.unwrap(), after);
    let mut password = update(&after, &["password"]);
    password.password = "another long password".into();
    let changed = app.update(password.clone()).await.unwrap();
    let tokens = app.login(EMAIL, "another long password").await.unwrap();
    assert_eq!(app.update(password).await.unwrap(), changed);
    assert!(app.refresh(&tokens.refresh_token).await.is_ok(), "no new password, no end of sessions");
}

async fn an_outdated_etag_is_refused(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let user = app.ada().await;
    app.update(renamed(&user, "Bob")).await.unwrap();
    refused(app.update(renamed(&user, "Eve")).await, Code::Aborted, "USER_CHANGED");
    let anyhow = User { etag: String::new(), ..user.clone() };
    assert_eq!(app.update(renamed(&anyhow, "Eve")).await.unwrap().display_name, "Eve");
    refused_field(app.update(renamed(&User { etag: "mine".into(), ..user }, "Eve")).await, "user.etag");
}

async fn a_taken_address_stays_with_its_owner(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    app.ada().await;
    let bob = app.register("bob@example.com", PASSWORD).await.unwrap();
    let request = update(&User { email: EMAIL.into(), ..bob.clone() }, &["email"]);
    refused(app.update(request).await, Code::AlreadyExists, "EMAIL_TAKEN");
    assert_eq!(app.get(&bob.user_id).await.unwrap(), bob);
    app.login("bob@example.com", PASSWORD).await.unwrap();
}

async fn one_of_many_concurrent_changes_gets_an_address(database: TestDatabase) {
    let app = TestApp::with_replicas(database, 2).await;
    let mut changing = tokio::task::JoinSet::new();
    for n in 0..6 {
        let user = app.register(&format!("u{n}@example.com"), PASSWORD).await.unwrap();
        let request = update(&User { email: EMAIL.into(), ..user }, &["email"]);
        let mut users = app.replica(n % 2);
        changing.spawn(async move { users.update_user(request).await });
    }
    let answers = changing.join_all().await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    for refusal in answers.into_iter().filter(Result::is_err) {
        refused(refusal, Code::AlreadyExists, "EMAIL_TAKEN");
    }
}

async fn malformed_fields_are_refused(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let user = app.ada().await;
    let huge = "a".repeat(1 << 20);
    refused_field(app.update(update(&user, &[])).await, "update_mask");
    refused_field(app.update(UpdateUserRequest::default()).await, "user");
    for path in ["user_id", "create_time", "*", "Email", "email; DROP TABLE users", &huge] {
        refused_field(app.update(update(&user, &[path])).await, "update_mask");
    }
    for email in ["", "ada", &huge] {
        let request = update(&User { email: email.into(), ..user.clone() }, &["email"]);
        refused_field(app.update(request).await, "user.email");
    }
    for roles in [vec![], vec![0], vec![9, 1]] {
        let request = update(&User { roles, ..user.clone() }, &["roles"]);
        refused_field(app.update(request).await, "user.roles");
    }
    for name in ["", "a\0b", &huge] {
        refused_field(app.update(renamed(&user, name)).await, "user.display_name");
    }
    for password in ["", "too short", "ada@example.com", "passwordpassword", &huge] {
        let request = UpdateUserRequest { password: password.into(), ..update(&user, &["password"]) };
        refused_field(app.update(request).await, "password");
    }
    refused_field(
        app.update(renamed(&User { user_id: "ada".into(), ..user.clone() }, "x")).await,
        "user.user_id",
    );
    assert_eq!(app.get(&user.user_id).await.unwrap(), user);
    let unknown = User { user_id: "018f3c5e-7b1a-7cc0-8f00-0123456789ab".into(), ..user };
    for path in ["display_name", "email"] {
        refused(app.update(update(&unknown, &[path])).await, Code::NotFound, "USER_NOT_FOUND");
    }
}

async fn a_deleted_account_is_gone_with_its_sessions_and_its_address_is_free(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let user = app.ada().await;
    let tokens = app.login(EMAIL, PASSWORD).await.unwrap();
    for _ in 0..2 {
        app.delete(&user.user_id).await.unwrap();
    }
    refused(app.get(&user.user_id).await, Code::NotFound, "USER_NOT_FOUND");
    refused(app.refresh(&tokens.refresh_token).await, Code::Unauthenticated, "REFRESH_TOKEN_INVALID");
    refused(app.login(EMAIL, PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_WRONG");
    refused_field(app.delete("ada").await, "user_id");
    assert_ne!(app.ada().await.user_id, user.user_id);
}

on_both_databases!(
    only_fields_of_the_mask_change,
    the_same_change_again_changes_nothing,
    an_outdated_etag_is_refused,
    a_taken_address_stays_with_its_owner,
    one_of_many_concurrent_changes_gets_an_address,
    malformed_fields_are_refused,
    a_deleted_account_is_gone_with_its_sessions_and_its_address_is_free,
);
