//! Concurrent calls behave as if they had run in some order: histories of callers of
//! two replicas are linearizable.

use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
};

use mesh_proto::shop::product::v1::{Reservation, ReservationState};
use service_kit::{on_both_databases, testing::TestDatabase};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester};
use tokio::{sync::Barrier, task::JoinSet};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{
    app::{TestApp, new_id},
    model::{Model, Op, PRODUCTS, RESERVED_PIECES, Ret},
};

type Tester = LinearizabilityTester<usize, Model>;

const AVAILABLE: [i64; PRODUCTS] = [3, 3];
const CALLERS: usize = 4;
const CALLS: usize = 5;

/// Runs the scripts concurrently and records when each call began and ended.
async fn record<F>(scripts: Vec<Vec<Op>>, call: impl Fn(Op) -> F + Clone + Send + 'static) -> Tester
where
    F: Future<Output = Ret> + Send,
{
    let history = Arc::new(Mutex::new(Tester::new(Model::of(AVAILABLE))));
    let mut callers = JoinSet::new();
    for (caller, script) in scripts.into_iter().enumerate() {
        let (history, call) = (history.clone(), call.clone());
        callers.spawn(async move {
            for op in script {
                history.lock().unwrap().on_invoke(caller, op).unwrap();
                let ret = call(op).await;
                history.lock().unwrap().on_return(caller, ret).unwrap();
            }
        });
    }
    callers.join_all().await;
    Arc::into_inner(history).unwrap().into_inner().unwrap()
}

fn script() -> Vec<Op> {
    let op = |_| {
        let n = fastrand::usize(..RESERVED_PIECES.len());
        match fastrand::u8(..8) {
            0..=2 => Op::Reserve(n),
            3 => Op::Commit(n),
            4 => Op::Release(n),
            _ => Op::Stock(fastrand::usize(..PRODUCTS)),
        }
    };
    (0..CALLS).map(op).collect()
}

/// The products and reservations of one round.
struct Round {
    app: Arc<TestApp>,
    skus: Vec<String>,
    ids: Vec<String>,
}

impl Round {
    async fn new(app: &Arc<TestApp>) -> Self {
        let skus: Vec<_> = AVAILABLE.iter().map(|_| new_id()).collect();
        for (sku, pieces) in skus.iter().zip(AVAILABLE) {
            app.stocked(sku, pieces).await;
        }
        Self { app: app.clone(), skus, ids: RESERVED_PIECES.iter().map(|_| new_id()).collect() }
    }

    async fn call(&self, op: Op) -> Ret {
        loop {
            let answer = match op {
                Op::Reserve(n) => {
                    let items = self.skus.iter().map(String::as_str).zip(RESERVED_PIECES[n]);
                    let items = items.filter(|(_, pieces)| *pieces > 0);
                    let items: Vec<_> =
                        items.map(|(sku, pieces)| (sku, i32::try_from(pieces).unwrap())).collect();
                    self.app.reserve(&self.ids[n], &items).await.map(state)
                }
                Op::Commit(n) => self.app.commit(&self.ids[n]).await.map(state),
                Op::Release(n) => self.app.release(&self.ids[n]).await.map(state),
                Op::Stock(product) => self
                    .app
                    .stock(&self.skus[product])
                    .await
                    .map(|stock| Ret::Pieces(stock.available, stock.reserved, stock.sold)),
                other => panic!("{other:?} is no operation of callers"),
            };
            match answer {
                Ok(ret) => return ret,
                // Refused before anything was done.
                Err(why) if why.code() == Code::ResourceExhausted => {}
                Err(why) => return refusal(&why),
            }
        }
    }
}

fn state(reservation: Reservation) -> Ret {
    match reservation.state() {
        ReservationState::Held => Ret::Held,
        ReservationState::Committed => Ret::Committed,
        ReservationState::Released => Ret::Released,
        other => panic!("{other:?}"),
    }
}

fn refusal(why: &Status) -> Ret {
    let details = why.get_error_details();
    match details.error_info().map(|info| info.reason.as_str()) {
        Some("OUT_OF_STOCK") => Ret::Short,
        Some("RESERVATION_RELEASED") => Ret::Final,
        Some("RESERVATION_NOT_FOUND") => Ret::Unknown,
        _ => panic!("{why:?}"),
    }
}

async fn callers_of_two_replicas_see_one_stock(database: TestDatabase) {
    let app = Arc::new(TestApp::with_replicas(database, 2).await);
    for _ in 0..25 {
        let round = Arc::new(Round::new(&app).await);
        let scripts = (0..CALLERS).map(|_| script()).collect();
        let history = record(scripts, move |op| {
            let round = round.clone();
            async move { round.call(op).await }
        });
        let history = history.await;
        let consistent = tokio::task::spawn_blocking({
            let history = history.clone();
            move || history.is_consistent()
        });
        assert!(consistent.await.unwrap(), "{history:#?}");
    }
}

on_both_databases!(callers_of_two_replicas_see_one_stock);

/// The control: a stock whose check and sale are two steps.
#[tokio::test]
async fn a_stock_that_oversells_is_detected() {
    let (left, checked) = (Arc::new(AtomicI64::new(AVAILABLE[0])), Arc::new(Barrier::new(2)));
    let torn = move |op: Op| {
        let (left, checked) = (left.clone(), checked.clone());
        async move {
            let Op::Reserve(n) = op else { panic!("{op:?}") };
            let enough = left.load(SeqCst) >= RESERVED_PIECES[n][0];
            checked.wait().await;
            if !enough {
                return Ret::Short;
            }
            left.fetch_sub(RESERVED_PIECES[n][0], SeqCst);
            Ret::Held
        }
    };
    // Two and three of three pieces.
    let history = record(vec![vec![Op::Reserve(0)], vec![Op::Reserve(3)]], torn).await;
    assert!(!history.is_consistent(), "{history:#?}");
}

#[test]
fn an_outdated_read_is_detected() {
    let history = |seen| {
        let mut history = Tester::new(Model::of(AVAILABLE));
        history.on_invret(0, Op::Reserve(0), Ret::Held).unwrap();
        history.on_invret(1, Op::Stock(0), seen).unwrap();
        history.is_consistent()
    };
    assert!(history(Ret::Pieces(1, 2, 0)));
    assert!(!history(Ret::Pieces(3, 0, 0)));
    // It is right while the reservation runs.
    let mut history = Tester::new(Model::of(AVAILABLE));
    history.on_invoke(0, Op::Reserve(0)).unwrap();
    history.on_invret(1, Op::Stock(0), Ret::Pieces(3, 0, 0)).unwrap();
    history.on_return(0, Ret::Held).unwrap();
    assert!(history.is_consistent());
}
