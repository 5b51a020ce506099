//! The states of a charge.

use mesh_proto::{
    google::r#type::Money,
    shop::payment::v1::{
        ChargeRequest,
        ChargeState::{Declined, Refunded, Succeeded, Voided},
    },
};
use service_kit::{on_both_databases, testing::TestDatabase};
use tonic::{Code, Request};

use crate::app::{TestApp, charging, declining, eur, new_key, refused, refused_fields};

async fn a_repeated_charge_charges_once(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let key = new_key();
    let charge = app.charge(&key, 499).await.unwrap();
    assert_eq!((charge.state(), charge.amount.clone()), (Succeeded, Some(eur(499))));
    assert_eq!((charge.customer_id.as_str(), charge.payment_method.as_str()), ("ada", "pm_card_visa"));
    assert_eq!(charge.create_time, charge.update_time);
    // A UUID may be spelt in more than one way.
    assert_eq!(app.charge(&key.to_uppercase(), 499).await.unwrap(), charge);
    let app = app.restart().await;
    assert_eq!(app.charge(&key, 499).await.unwrap(), charge);
    assert_eq!(app.get(&key).await.unwrap(), charge);
    assert_eq!(app.balance().await, ([499, 0, 499], [1, 0]));
}

async fn a_key_that_was_charged_takes_no_other_body(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let key = new_key();
    app.charge(&key, 499).await.unwrap();
    let secret = "pm_card_of_another_customer";
    let cases: [(ChargeRequest, &[&str]); 4] = [
        (charging(&key, 498), &["amount"]),
        (
            ChargeRequest {
                amount: Some(Money { currency_code: "USD".into(), ..eur(499) }),
                ..charging(&key, 499)
            },
            &["amount"],
        ),
        (ChargeRequest { payment_method: secret.into(), ..charging(&key, 499) }, &["payment_method"]),
        (
            ChargeRequest { customer_id: "bob".into(), payment_method: secret.into(), ..charging(&key, 1) },
            &["customer_id", "amount", "payment_method"],
        ),
    ];
    for (other, differ) in cases {
        let result = app.send(Request::new(other)).await;
        let words = format!("{:?}", result.as_ref().unwrap_err());
        assert!(!words.contains(secret) && !words.contains("visa"), "{words}");
        let details = refused(result, Code::InvalidArgument, "KEY_REUSED");
        let violations = &details.bad_request().unwrap().field_violations;
        let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, differ);
    }
    assert_eq!(app.balance().await, ([499, 0, 499], [1, 0]));
}

async fn a_declined_charge_leaves_the_key_free(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let key = new_key();
    for _ in 0..2 {
        let result = app.send(declining(&key, 499)).await;
        refused(result, Code::FailedPrecondition, "PAYMENT_DECLINED");
        assert_eq!(app.get(&key).await.unwrap().state(), Declined);
    }
    let declined = app.get(&key).await.unwrap();
    assert_eq!(app.balance().await, ([0, 0, 0], [0, 0]));
    let charge = app.charge(&key, 500).await.unwrap();
    assert_eq!((charge.state(), charge.charge_id.clone()), (Succeeded, declined.charge_id));
    // The charge succeeded; a declined card is another body.
    refused(app.send(declining(&key, 500)).await, Code::InvalidArgument, "KEY_REUSED");
    assert_eq!(app.balance().await, ([500, 0, 500], [1, 0]));
}

async fn a_decline_holds_for_its_attempt_and_those_before(database: TestDatabase) {
    let app = TestApp::with_replicas(database, 2).await;
    let key = new_key();
    let attempt = |number, request: Request<ChargeRequest>| {
        Request::new(ChargeRequest { fencing_token: number, ..request.into_inner() })
    };
    let good = |number| attempt(number, Request::new(charging(&key, 499)));
    let bad = |number| attempt(number, declining(&key, 499));
    refused(app.send(bad(2)).await, Code::FailedPrecondition, "PAYMENT_DECLINED");
    // Late and repeated attempts, although the card is accepted by then.
    refused(app.send(good(1)).await, Code::Aborted, "CHARGE_SUPERSEDED");
    refused(app.send(good(2)).await, Code::FailedPrecondition, "PAYMENT_DECLINED");
    refused(app.send(bad(3)).await, Code::FailedPrecondition, "PAYMENT_DECLINED");
    refused(app.send(good(2)).await, Code::Aborted, "CHARGE_SUPERSEDED");
    assert_eq!((app.get(&key).await.unwrap().state(), app.balance().await), (Declined, ([0, 0, 0], [0, 0])));
    // A success holds for every attempt.
    let charge = app.send(good(4)).await.unwrap();
    for number in [0, 1, 4, 5] {
        assert_eq!(app.send(good(number)).await.unwrap(), charge);
    }
    assert_eq!(app.balance().await, ([499, 0, 499], [1, 0]));
    refused_fields(app.send(good(-1)).await, &["fencing_token"]);
}

async fn an_attempt_without_a_number_is_not_fenced_off(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let key = new_key();
    let numbered = ChargeRequest { fencing_token: 2, ..declining(&key, 499).into_inner() };
    refused(app.send(Request::new(numbered)).await, Code::FailedPrecondition, "PAYMENT_DECLINED");
    app.send(declining(&key, 499)).await.unwrap_err();
    // A decline without a number does not reset the numbers.
    let late = ChargeRequest { fencing_token: 1, ..charging(&key, 499) };
    refused(app.send(Request::new(late)).await, Code::Aborted, "CHARGE_SUPERSEDED");
    assert_eq!(app.charge(&key, 499).await.unwrap().state(), Succeeded);
}

async fn a_refund_gives_everything_back_and_is_final(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let key = new_key();
    let charge = app.charge(&key, 499).await.unwrap();
    let refund = app.refund(&key).await.unwrap();
    assert_eq!(
        (refund.state(), &refund.charge_id, &refund.amount),
        (Refunded, &charge.charge_id, &charge.amount)
    );
    let app = app.restart().await;
    assert_eq!(app.refund(&key).await.unwrap(), refund);
    refused(app.charge(&key, 499).await, Code::FailedPrecondition, "CHARGE_VOIDED");
    assert_eq!(app.get(&key).await.unwrap(), refund);
    assert_eq!(app.balance().await, ([499, 499, 0], [1, 1]));
}

async fn a_key_refunded_before_it_is_charged_is_never_charged(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let [unknown, declined] = [new_key(), new_key()];
    refused(app.get(&unknown).await, Code::NotFound, "CHARGE_NOT_FOUND");
    let void = app.refund(&unknown).await.unwrap();
    assert_eq!((void.state(), void.customer_id.as_str(), &void.amount), (Voided, "", &None));
    app.send(declining(&declined, 499)).await.unwrap_err();
    assert_eq!(app.refund(&declined).await.unwrap().state(), Voided);
    for key in [&unknown, &declined] {
        refused(app.charge(key, 499).await, Code::FailedPrecondition, "CHARGE_VOIDED");
        refused(app.send(declining(key, 499)).await, Code::FailedPrecondition, "CHARGE_VOIDED");
        assert_eq!(app.refund(key).await.unwrap(), app.get(key).await.unwrap());
    }
    assert_eq!(app.balance().await, ([0, 0, 0], [0, 0]));
}

async fn malformed_requests_are_refused_by_their_fields(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    for bad in ["", "1", "00000000-0000-0000-0000-000000000000", "x'; DROP TABLE ledger; --"] {
        refused_fields(app.charge(bad, 499).await, &["idempotency_key"]);
        refused_fields(app.refund(bad).await, &["idempotency_key"]);
        refused_fields(app.get(bad).await, &["idempotency_key"]);
    }
    type Spoil = fn(&mut ChargeRequest);
    let cases: [(&str, Spoil); 12] = [
        ("customer_id", |r| r.customer_id = String::new()),
        ("customer_id", |r| r.customer_id = "a".repeat(129)),
        ("payment_method", |r| r.payment_method = String::new()),
        ("payment_method", |r| r.payment_method = "4111 1111 1111 1111".into()),
        ("amount", |r| r.amount = None),
        ("amount", |r| r.amount = Some(eur(0))),
        ("amount", |r| r.amount = Some(Money { units: -1, ..eur(0) })),
        ("amount", |r| r.amount = Some(Money { nanos: -1, ..eur(100) })),
        ("amount", |r| r.amount = Some(Money { nanos: 1, ..eur(100) })),
        ("amount", |r| r.amount = Some(Money { units: i64::MAX, ..eur(0) })),
        ("amount", |r| r.amount = Some(Money { units: i64::MIN, ..eur(0) })),
        ("amount", |r| r.amount = Some(Money { currency_code: "EURO".into(), ..eur(100) })),
    ];
    for (field, spoil) in cases {
        let mut request = charging(&new_key(), 499);
        spoil(&mut request);
        refused_fields(app.send(Request::new(request)).await, &[field]);
    }
    assert_eq!(app.list("", 0, "").await.unwrap().0, []);
}

on_both_databases!(
    a_repeated_charge_charges_once,
    a_key_that_was_charged_takes_no_other_body,
    a_declined_charge_leaves_the_key_free,
    a_decline_holds_for_its_attempt_and_those_before,
    an_attempt_without_a_number_is_not_fenced_off,
    a_refund_gives_everything_back_and_is_final,
    a_key_refunded_before_it_is_charged_is_never_charged,
    malformed_requests_are_refused_by_their_fields,
);
