//! `Register` and `GetUser`.

use mesh_proto::shop::user::v1::{Role, User};
use service_kit::{on_both_databases, testing::TestDatabase};
use tokio::task::JoinSet;
use tonic::Code;

use crate::app::{EMAIL, PASSWORD, TestApp, refused, refused_field, registration};

async fn an_account_is_found_as_registered_also_after_a_restart(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let made = app.register("Ada@Example.COM", PASSWORD).await.unwrap();
    let expected = User {
        user_id: made.user_id.clone(),
        email: EMAIL.into(),
        display_name: "Ada L.".into(),
        roles: vec![Role::Customer.into()],
        create_time: made.create_time,
        update_time: made.create_time,
        etag: "1".into(),
    };
    assert_eq!((made.user_id.len(), made.user_id.as_bytes()[14]), (36, b'7'));
    assert!(made.create_time.is_some());
    assert_eq!(made, expected);
    assert_eq!(app.get(&made.user_id).await.unwrap(), expected);
    let app = app.restart().await;
    assert_eq!(app.get(&made.user_id.to_uppercase()).await.unwrap(), expected);
    assert_eq!(app.login(EMAIL, PASSWORD).await.unwrap().user, Some(expected));
    refused(app.get("018f3c5e-7b1a-7cc0-8f00-0123456789ab").await, Code::NotFound, "USER_NOT_FOUND");
    refused_field(app.get("ada").await, "user_id");
}

async fn the_default_name_is_the_local_part_of_the_address(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let email = format!("{}@example.com", "a".repeat(120));
    let mut request = registration(&email, PASSWORD);
    request.display_name = String::new();
    let user = app.replica(0).register(request).await.unwrap().into_inner();
    assert_eq!((user.email, user.display_name), (email, "a".repeat(100)));
}

async fn an_address_has_one_account(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    app.ada().await;
    for again in [EMAIL, "ADA@example.com"] {
        let refusal = app.register(again, "another long password").await;
        refused(refusal, Code::AlreadyExists, "EMAIL_TAKEN");
    }
    app.login(EMAIL, PASSWORD).await.unwrap();
}

async fn one_of_many_concurrent_registrations_succeeds(database: TestDatabase) {
    let app = TestApp::with_replicas(database, 2).await;
    let mut registering = JoinSet::new();
    for n in 0..12 {
        let mut users = app.replica(n % 2);
        registering.spawn(async move { users.register(registration(EMAIL, PASSWORD)).await });
    }
    let (made, refusals): (Vec<_>, Vec<_>) =
        registering.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), refusals.len()), (1, 11));
    for refusal in refusals {
        refused(refusal, Code::AlreadyExists, "EMAIL_TAKEN");
    }
}

async fn malformed_fields_are_refused(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let huge = "a".repeat(1 << 20);
    let emails = ["", "ada", "a@b@c", "a b@c", "a\0@b", "a@b\u{202e}", &huge, &format!("{huge}@b")];
    for email in emails {
        refused_field(app.register(email, PASSWORD).await, "email");
    }
    let passwords = ["", "eleven char", "Password1234", "aaaaaaaaaaaaa", &"a b".repeat(43), &huge];
    for password in passwords {
        refused_field(app.register(EMAIL, password).await, "password");
    }
    refused_field(app.register("ada.lovelace@b.c", "Ada.Lovelace@b.c").await, "password");
    for name in ["a\0b", "a\nb", &"a".repeat(101), &huge] {
        let request = mesh_proto::shop::user::v1::RegisterRequest {
            display_name: name.into(),
            ..registration(EMAIL, PASSWORD)
        };
        refused_field(app.replica(0).register(request).await, "display_name");
    }
    let all = app.replica(0).register(mesh_proto::shop::user::v1::RegisterRequest::default()).await;
    service_kit::testing::refused_fields(user_service::NAME, all, &["email", "password"]);
}

async fn text_stays_text(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let texts = [
        "'; DROP TABLE users; --",
        "\" OR \"\"=\"",
        "$1 %s ${jndi:ldap://x} \\'",
        "🫖 \u{202e}gnirts\u{202c} Z\u{351}algo",
        "--/*",
    ];
    for (n, text) in texts.into_iter().enumerate() {
        let email = format!("'or'1'='1'--{n}@example.com");
        let mut request = registration(&email, &format!("{text} and some more"));
        request.display_name = text.into();
        let user = app.replica(0).register(request).await.unwrap().into_inner();
        assert_eq!((user.display_name.as_str(), &user.email), (text, &email));
        assert_eq!(app.get(&user.user_id).await.unwrap(), user);
        app.login(&email, &format!("{text} and some more")).await.unwrap();
        let wrong = app.login(&email, "' OR 1=1; --").await;
        refused(wrong, Code::Unauthenticated, "CREDENTIALS_WRONG");
        refused_field(app.get(text).await, "user_id");
    }
}

on_both_databases!(
    an_account_is_found_as_registered_also_after_a_restart,
    the_default_name_is_the_local_part_of_the_address,
    an_address_has_one_account,
    one_of_many_concurrent_registrations_succeeds,
    malformed_fields_are_refused,
    text_stays_text,
);
