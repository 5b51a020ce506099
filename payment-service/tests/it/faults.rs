//! Injected faults.

use std::time::Duration;

use mesh_proto::shop::payment::v1::ChargeState::{Declined, Succeeded};
use payment_service::PaymentService;
use service_kit::{
    database::Database,
    on_both_databases,
    service::{self, Service, ServiceContext},
    testing::{TestDatabase, mesh_to},
};
use tokio::{net::TcpListener, time::Instant};
use tonic::Code;

use crate::app::{TestApp, faulty, new_key, refused, refused_fields};

const TIMEOUT: Duration = Duration::from_millis(500);
const LONG: Duration = Duration::from_secs(10);

async fn a_lost_call_has_taken_effect(database: TestDatabase) {
    let app = TestApp::with_faults(database, "metadata").await;
    let key = new_key();
    let lost = app.send(faulty(&key, "lost", TIMEOUT)).await.unwrap_err();
    assert_eq!(lost.code(), Code::DeadlineExceeded);
    let charge = app.get(&key).await.unwrap();
    assert_eq!(charge.state(), Succeeded);
    // With a time the connection breaks after it, at every attempt.
    let key = new_key();
    let broken = app.send(faulty(&key, "lost:1ms", LONG)).await;
    refused(broken, Code::Unavailable, "PROVIDER_UNAVAILABLE");
    let charge = app.get(&key).await.unwrap();
    assert_eq!(app.charge(&key, 499).await.unwrap(), charge);
    assert_eq!(app.balance().await, ([998, 0, 998], [2, 0]));
}

async fn an_unavailable_call_has_not_taken_effect(database: TestDatabase) {
    let app = TestApp::with_faults(database, "metadata").await;
    let key = new_key();
    let away = app.send(faulty(&key, "unavailable", LONG)).await;
    refused(away, Code::Unavailable, "PROVIDER_UNAVAILABLE");
    refused(app.get(&key).await, Code::NotFound, "CHARGE_NOT_FOUND");
    let declined = app.send(faulty(&key, "decline", LONG)).await;
    refused(declined, Code::FailedPrecondition, "PAYMENT_DECLINED");
    assert_eq!(app.get(&key).await.unwrap().state(), Declined);
    let begun = Instant::now();
    let charge = app.send(faulty(&key, "slow:300ms", LONG)).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300));
    // A successful charge is not declined any more.
    assert_eq!(app.send(faulty(&key, "decline", LONG)).await.unwrap(), charge);
    refused_fields(app.send(faulty(&key, "explode", LONG)).await, &["x-payment-fault"]);
}

async fn callers_cannot_request_faults_where_they_are_off(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let key = new_key();
    let charge = app.charge(&key, 499).await.unwrap();
    for fault in ["lost", "decline", "slow", "unavailable", "explode"] {
        assert_eq!(app.send(faulty(&key, fault, LONG)).await.unwrap(), charge);
    }
}

async fn random_faults_affect_charges_and_never_the_ledger(database: TestDatabase) {
    let app = TestApp::with_faults(database, "decline=0.3,unavailable=0.3,lost=0.3:1ms,slow=0.3:1ms").await;
    for _ in 0..20 {
        let key = new_key();
        let mut codes = Vec::new();
        let charge = loop {
            match app.charge(&key, 5).await {
                Ok(charge) => break charge,
                Err(why) => codes.push(why.code()),
            }
        };
        assert_eq!(charge.state(), Succeeded);
        let known = [Code::Unavailable, Code::FailedPrecondition];
        assert!(codes.iter().all(|code| known.contains(code)), "{codes:?}");
    }
    assert_eq!(app.balance().await, ([100, 0, 100], [20, 0]));
}

on_both_databases!(
    a_lost_call_has_taken_effect,
    an_unavailable_call_has_not_taken_effect,
    callers_cannot_request_faults_where_they_are_off,
    random_faults_affect_charges_and_never_the_ledger,
);

#[tokio::test]
async fn a_service_with_malformed_faults_does_not_start() {
    let folder = TestDatabase::sqlite();
    let open = Database::open(folder.url(), &PaymentService::MIGRATIONS).await.unwrap();
    let context = ServiceContext::open(mesh_to([]), open);
    let service = PaymentService { payment_faults: "lost=often".into() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused = service::serve(service, context, listener, std::future::pending()).await;
    let words = format!("{:#}", refused.unwrap_err());
    assert!(words.contains("PAYMENT_FAULTS") && words.contains("`lost=often`"), "{words}");
}
