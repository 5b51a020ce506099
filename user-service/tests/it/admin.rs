//! The first admin.

use mesh_proto::shop::user::v1::{Role, User};
use service_kit::{
    database::Database,
    on_both_databases,
    service::{self, Service, ServiceContext},
    testing::{Replica, TestDatabase, mesh_to},
};
use tokio::task::JoinSet;
use tonic::Code;
use user_service::UserService;

use crate::app::{EMAIL, PASSWORD, TestApp, refused, update, with_admin};

const ADMINS: &str = "the password of the admin";

async fn start_with_admin(database: &TestDatabase, email: &str, password: &str) -> Replica {
    let open = Database::open(database.url(), &UserService::MIGRATIONS).await.unwrap();
    let context = ServiceContext::open(mesh_to([]), open);
    let service = with_admin(email, password);
    Replica::start(|listener, shutdown| service::serve(service, context, listener, shutdown)).await
}

/// The app and the admin after `times` replicas were started and stopped.
async fn started(database: TestDatabase, password: &str, times: usize) -> (TestApp, User) {
    let shared = std::sync::Arc::new(database);
    let mut starting = JoinSet::new();
    for _ in 0..times {
        let (database, password) = (shared.clone(), password.to_owned());
        starting.spawn(async move {
            start_with_admin(&database, "ADA@example.com", &password).await.stop().await;
        });
    }
    starting.join_all().await;
    let app = TestApp::spawn(std::sync::Arc::into_inner(shared).unwrap()).await;
    let user = app.login(EMAIL, password).await.unwrap().user.unwrap();
    (app, user)
}

fn both() -> Vec<i32> {
    vec![Role::Customer.into(), Role::Admin.into()]
}

async fn replicas_that_start_together_make_one_admin(database: TestDatabase) {
    let (_app, user) = started(database, ADMINS, 4).await;
    assert_eq!((user.roles, user.email.as_str(), user.etag.as_str()), (both(), EMAIL, "1"));
}

async fn an_admin_keeps_the_password_chosen_since(database: TestDatabase) {
    let (app, user) = started(database, ADMINS, 1).await;
    let mut request = update(&user, &["password"]);
    request.password = PASSWORD.into();
    app.update(request).await.unwrap();
    for replica in app.replicas {
        replica.stop().await;
    }
    start_with_admin(&app.database, EMAIL, ADMINS).await.stop().await;
    let app = TestApp::spawn(app.database).await;
    assert_eq!(app.login(EMAIL, PASSWORD).await.unwrap().user.unwrap().roles, both());
    refused(app.login(EMAIL, ADMINS).await, Code::Unauthenticated, "CREDENTIALS_WRONG");
}

async fn registering_the_address_first_makes_no_admin(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let squatter = app.ada().await;
    let tokens = app.login(EMAIL, PASSWORD).await.unwrap();
    for replica in app.replicas {
        replica.stop().await;
    }
    let (app, user) = started(app.database, ADMINS, 2).await;
    assert_eq!((user.user_id, user.roles), (squatter.user_id, both()));
    refused(app.login(EMAIL, PASSWORD).await, Code::Unauthenticated, "CREDENTIALS_WRONG");
    refused(app.refresh(&tokens.refresh_token).await, Code::Unauthenticated, "REFRESH_TOKEN_INVALID");
}

async fn a_weak_password_of_the_admin_ends_the_start_without_repeating_it(database: TestDatabase) {
    for (email, password, what) in [
        (EMAIL, "hunter2", "ADMIN_PASSWORD"),
        ("ada", ADMINS, "ADMIN_EMAIL"),
        (EMAIL, EMAIL, "ADMIN_PASSWORD"),
    ] {
        let open = Database::open(database.url(), &UserService::MIGRATIONS).await.unwrap();
        let context = ServiceContext::open(mesh_to([]), open);
        let service = with_admin(email, password);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ended = Box::pin(service::serve(service, context, listener, std::future::pending())).await;
        let why = format!("{:#}", ended.unwrap_err());
        assert!(why.starts_with(what) && !why.contains("hunter2"), "{why}");
    }
}

on_both_databases!(
    replicas_that_start_together_make_one_admin,
    an_admin_keeps_the_password_chosen_since,
    registering_the_address_first_makes_no_admin,
    a_weak_password_of_the_admin_ends_the_start_without_repeating_it,
);
