//! Concurrent calls for the same key.

use std::{future::Future, sync::Arc};

use mesh_proto::shop::payment::v1::{Charge, ChargeState};
use service_kit::{on_both_databases, testing::TestDatabase};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::app::{TestApp, new_key};

/// Repeats a call while the service is overloaded.
async fn retry<F>(mut call: impl FnMut() -> F) -> Result<Charge, Status>
where
    F: Future<Output = Result<Charge, Status>>,
{
    for _ in 0..1_000 {
        match call().await {
            Err(why) if matches!(why.code(), Code::ResourceExhausted | Code::Unavailable) => {}
            done => return done,
        }
    }
    panic!("refused a thousand times");
}

async fn a_hundred_concurrent_calls_for_one_key_charge_once(database: TestDatabase) {
    let app = Arc::new(TestApp::with_replicas(database, 2).await);
    for _ in 0..3 {
        let key = new_key();
        let mut charging = JoinSet::new();
        for _ in 0..100 {
            let (app, key) = (app.clone(), key.clone());
            charging.spawn(async move { retry(|| app.charge(&key, 499)).await.unwrap() });
        }
        let answers = charging.join_all().await;
        assert!(answers.iter().all(|answer| *answer == answers[0]));
    }
    assert_eq!(app.balance().await, ([1_497, 0, 1_497], [3, 0]));
}

async fn a_concurrent_charge_and_refund_leave_nothing_charged(database: TestDatabase) {
    let app = Arc::new(TestApp::with_replicas(database, 2).await);
    let mut meeting = JoinSet::new();
    for n in 0..60 {
        let app = app.clone();
        meeting.spawn(async move {
            let key = new_key();
            let charged = retry(|| app.charge(&key, 499));
            let refunded = retry(|| app.refund(&key));
            let (charged, refunded) = if n % 2 == 0 {
                tokio::join!(charged, refunded)
            } else {
                let (refunded, charged) = tokio::join!(refunded, charged);
                (charged, refunded)
            };
            match (charged, refunded.unwrap().state()) {
                (Ok(_), ChargeState::Refunded) => true,
                (Err(why), ChargeState::Voided) => {
                    assert_eq!(why.code(), Code::FailedPrecondition, "{why:?}");
                    false
                }
                other => panic!("{other:?}"),
            }
        });
    }
    let met = meeting.join_all().await;
    let charged = i64::try_from(met.into_iter().filter(|charged| *charged).count()).unwrap();
    assert_eq!(app.balance().await, ([charged * 499, charged * 499, 0], [charged, charged]));
}

on_both_databases!(
    a_hundred_concurrent_calls_for_one_key_charge_once,
    a_concurrent_charge_and_refund_leave_nothing_charged,
);
