//! Any sequence of charges and refunds leaves a ledger whose entries add up to zero and
//! match the charges less the refunds.

use std::{collections::HashMap, sync::Arc};

use mesh_proto::{
    google::r#type::Money,
    shop::payment::v1::{self as wire, ChargeRequest},
};
use payment_service::{
    Error, PaymentService,
    domain::{Amount, ChargeState, FencingToken, IdempotencyKey, PaymentMethod, Terms},
    store::Store,
};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use service_kit::{
    database::Database, money::Money as Sum, on_both_databases, service::Service, testing::TestDatabase,
    value::CustomerId,
};
use tokio::{
    runtime::Handle,
    task::{JoinSet, block_in_place},
};
use tonic::{Code, Request};

use crate::app::{TestApp, charging, declining, new_key, refused, refused_fields};

/// The number of entries and their sum. It asserts that those of each charge add up to
/// zero, and that the balances match.
pub(crate) async fn entries(database: &Database) -> (i64, i64) {
    let row = database
        .row("SELECT COUNT(*) AS entries, CAST(COALESCE(SUM(amount), 0) AS BIGINT) AS total FROM ledger", &[])
        .await
        .unwrap()
        .unwrap();
    let unbalanced = "SELECT charge_id FROM ledger GROUP BY charge_id, kind, currency \
         HAVING SUM(amount) <> 0 OR COUNT(*) <> 2 LIMIT 1";
    assert!(database.row(unbalanced, &[]).await.unwrap().is_none());
    let drifted = "SELECT currency, kind FROM (SELECT currency, kind, entries, billions, rest FROM balances \
         UNION ALL SELECT currency, kind, -1, -(amount / 1000000000), -(amount % 1000000000) FROM ledger \
         WHERE account = 'shop') AS both_of_them GROUP BY currency, kind \
         HAVING SUM(entries) <> 0 OR SUM(billions) <> 0 OR SUM(rest) <> 0 LIMIT 1";
    assert!(database.row(drifted, &[]).await.unwrap().is_none());
    (row.get("entries").unwrap(), row.get("total").unwrap())
}

async fn all_entries_add_up_to_zero(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let beside = app.database().await;
    let [paid, refunded, declined, void] = [new_key(), new_key(), new_key(), new_key()];
    app.charge(&paid, 100).await.unwrap();
    app.charge(&refunded, 250).await.unwrap();
    app.send(declining(&declined, 7)).await.unwrap_err();
    assert_eq!(entries(&beside).await, (4, 0));
    app.refund(&refunded).await.unwrap();
    app.refund(&void).await.unwrap();
    for key in [&paid, &refunded, &declined, &void] {
        let _ = app.charge(key, 100).await;
    }
    assert_eq!(entries(&beside).await, (8, 0));
    assert_eq!(app.balance().await, ([450, 250, 200], [3, 1]));
}

async fn each_currency_has_a_balance_of_its_own(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let yen = Money { currency_code: "JPY".into(), units: 500, nanos: 0 };
    let request = ChargeRequest { amount: Some(yen.clone()), ..charging(&new_key(), 1) };
    app.send(Request::new(request)).await.unwrap();
    app.charge(&new_key(), 499).await.unwrap();
    assert_eq!(app.balance_in("JPY").await.unwrap().balance, Some(yen));
    assert_eq!(app.balance().await, ([499, 0, 499], [1, 0]));
    assert_eq!(app.balance_in("USD").await.unwrap().charges, 0);
    refused_fields(app.balance_in("EURO").await, &["currency_code"]);
}

/// The sum of the largest amounts is exact up to the limit of the protocol, and an
/// error above it.
async fn a_sum_is_exact_or_refused(database: TestDatabase) {
    let app = TestApp::spawn(database).await;
    let most = Money { currency_code: "EUR".into(), units: i64::MAX / 100, nanos: 70_000_000 };
    for _ in 0..3 {
        let request = ChargeRequest { amount: Some(most.clone()), ..charging(&new_key(), 1) };
        app.send(Request::new(request)).await.unwrap();
    }
    let charged = app.balance_in("EUR").await.unwrap().charged.unwrap();
    assert_eq!((charged.units, charged.nanos), (i64::MAX / 100 * 3, 210_000_000));
    for _ in 0..2 {
        let yen = Money { currency_code: "JPY".into(), units: i64::MAX, nanos: 0 };
        let request = ChargeRequest { amount: Some(yen), ..charging(&new_key(), 1) };
        app.send(Request::new(request)).await.unwrap();
    }
    refused(app.balance_in("JPY").await, Code::OutOfRange, "SUM_TOO_LARGE");
}

#[derive(Clone, Debug)]
enum Step {
    Charge { key: usize, cents: i64 },
    Decline { key: usize, cents: i64 },
    Refund { key: usize },
}

fn step() -> impl Strategy<Value = Step> {
    // Few keys and few amounts, for many conflicts.
    let (key, cents) = (0..4_usize, 1..4_i64);
    prop_oneof![
        3 => (key.clone(), cents.clone()).prop_map(|(key, cents)| Step::Charge { key, cents }),
        1 => (key.clone(), cents).prop_map(|(key, cents)| Step::Decline { key, cents }),
        1 => key.prop_map(|key| Step::Refund { key }),
    ]
}

fn terms(cents: i64) -> Terms {
    Terms {
        customer: CustomerId::parse("ada").unwrap(),
        amount: Amount::of(Sum::new(cents, "EUR".parse().unwrap()).unwrap()).unwrap(),
        method: PaymentMethod::parse("pm_card_visa").unwrap(),
    }
}

/// The model.
#[derive(Default)]
struct Model {
    /// The state of each key, and the paid amount.
    keys: HashMap<usize, (ChargeState, i64)>,
}

impl Model {
    /// The state in the response; `None` when the step is refused.
    fn take(&mut self, step: &Step) -> Option<ChargeState> {
        let (Step::Charge { key, .. } | Step::Decline { key, .. } | Step::Refund { key }) = *step;
        let before = self.keys.get(&key).copied();
        let after = match (step, before) {
            (
                Step::Charge { .. } | Step::Decline { .. },
                Some((ChargeState::Refunded | ChargeState::Voided, _)),
            ) => {
                return None;
            }
            (
                Step::Charge { cents, .. } | Step::Decline { cents, .. },
                Some((ChargeState::Succeeded, paid)),
            ) => {
                return (paid == *cents).then_some(ChargeState::Succeeded);
            }
            (Step::Charge { cents, .. }, _) => (ChargeState::Succeeded, *cents),
            (Step::Decline { .. }, _) => (ChargeState::Declined, 0),
            (Step::Refund { .. }, Some((ChargeState::Succeeded | ChargeState::Refunded, paid))) => {
                (ChargeState::Refunded, paid)
            }
            (Step::Refund { .. }, _) => (ChargeState::Voided, 0),
        };
        self.keys.insert(key, after);
        Some(after.0)
    }

    /// Charged and refunded.
    fn sums(&self) -> [i64; 2] {
        let sum = |states: &[ChargeState]| {
            self.keys.values().filter(|(state, _)| states.contains(state)).map(|(_, paid)| paid).sum()
        };
        [sum(&[ChargeState::Succeeded, ChargeState::Refunded]), sum(&[ChargeState::Refunded])]
    }
}

async fn replay(store: &Store, database: &Database, steps: &[Step]) {
    let before = balance(store).await;
    let keys: Vec<_> = (0..4).map(|_| IdempotencyKey::parse(&new_key()).unwrap()).collect();
    let mut model = Model::default();
    let none = FencingToken::default();
    for step in steps {
        let answer = match step {
            Step::Charge { key, cents } => store.charge(keys[*key], &terms(*cents), none, false).await,
            Step::Decline { key, cents } => store.charge(keys[*key], &terms(*cents), none, true).await,
            Step::Refund { key } => store.refund(keys[*key]).await,
        };
        let state = match answer {
            Ok(charge) => Some(charge.state),
            Err(Error::KeyReused(..) | Error::Voided(_)) => None,
            Err(why) => panic!("{why}"),
        };
        assert_eq!(state, model.take(step), "{step:?} of {steps:?}");
    }
    let after = balance(store).await;
    let [charged, refunded] = model.sums();
    assert_eq!(after, [before[0] + charged, before[1] + refunded], "{steps:?}");
    assert_eq!(entries(database).await.1, 0);
}

/// Charged and refunded, in cents.
async fn balance(store: &Store) -> [i64; 2] {
    let amounts = store.balance("EUR".parse().unwrap()).await.unwrap().amounts().unwrap();
    let [charged, refunded, _] = amounts.map(|money| money.units * 100 + i64::from(money.nanos) / 10_000_000);
    [charged, refunded]
}

async fn money_never_drifts(database: TestDatabase) {
    let open = Database::open(database.url(), &PaymentService::MIGRATIONS).await.unwrap();
    let store = Store::new(open.clone());
    let runtime = Handle::current();
    let config = Config { cases: 48, failure_persistence: None, ..Config::default() };
    let run = TestRunner::new(config).run(&vec(step(), 1..24), |steps| {
        block_in_place(|| runtime.block_on(replay(&store, &open, &steps)));
        Ok(())
    });
    run.unwrap();
}

/// Many callers of two replicas repeat calls for the same few keys: each key is charged
/// at most once.
async fn money_never_drifts_in_any_order(database: TestDatabase) {
    let app = Arc::new(TestApp::with_replicas(database, 2).await);
    let keys: Arc<Vec<_>> = Arc::new((0..10).map(|_| new_key()).collect());
    let mut walking = JoinSet::new();
    for walker in 0..8_usize {
        let (app, keys) = (app.clone(), keys.clone());
        walking.spawn(async move {
            for n in 0..20_usize {
                let key = &keys[(walker * 7 + n * 3) % keys.len()];
                // Only the state afterwards matters.
                let _ = match (walker + n) % 5 {
                    0 => app.refund(key).await,
                    1 => app.send(declining(key, 5)).await,
                    _ => app.charge(key, 5).await,
                };
            }
        });
    }
    walking.join_all().await;
    let (mut charged, mut refunded) = (0, 0);
    for key in keys.iter() {
        match app.get(key).await.unwrap().state() {
            wire::ChargeState::Succeeded => charged += 1,
            wire::ChargeState::Refunded => {
                charged += 1;
                refunded += 1;
            }
            _ => {}
        }
    }
    let expected = ([charged * 5, refunded * 5, (charged - refunded) * 5], [charged, refunded]);
    assert_eq!(app.balance().await, expected);
    assert_eq!(entries(&app.database().await).await, ((charged + refunded) * 2, 0));
}

on_both_databases!(
    all_entries_add_up_to_zero,
    each_currency_has_a_balance_of_its_own,
    a_sum_is_exact_or_refused,
    money_never_drifts,
    money_never_drifts_in_any_order,
);
