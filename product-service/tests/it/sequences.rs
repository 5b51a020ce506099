//! Any sequence of operations leaves the stock as the model says.

use product_service::{
    Error, NAME, ProductService, SUBSCRIBERS,
    domain::{Count, InvalidTransition, Item, Items, Lease, Product, ReservationId, ReservationState},
    store::Store,
};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use service_kit::{
    database::Database,
    events::Outbox,
    on_both_databases,
    service::Service,
    testing::TestDatabase,
    value::{Quantity, Sku},
};
use stateright::semantics::SequentialSpec;
use tokio::{runtime::Handle, task::block_in_place};

use crate::{
    app::{new_id, tea},
    model::{Model, Op, PRODUCTS, RESERVED_PIECES, Ret},
};

fn op() -> impl Strategy<Value = Op> {
    let (reservation, product) = (0..RESERVED_PIECES.len(), 0..PRODUCTS);
    prop_oneof![
        4 => reservation.clone().prop_map(Op::Reserve),
        2 => reservation.clone().prop_map(Op::Commit),
        2 => reservation.clone().prop_map(Op::Release),
        2 => reservation.prop_map(Op::Lapse),
        1 => Just(Op::Sweep),
        1 => (product, 0..6_i64).prop_map(|(product, pieces)| Op::SetStock(product, pieces)),
    ]
}

/// The real store, with products and reservations of one sequence.
struct Real {
    store: Store,
    database: Database,
    skus: Vec<Sku>,
    ids: Vec<ReservationId>,
}

impl Real {
    async fn new(database: &Database, available: [i64; PRODUCTS]) -> Self {
        let store = Store::new(database.clone(), Outbox::new(NAME, SUBSCRIBERS));
        let mut skus = Vec::new();
        for pieces in available {
            let sku = Sku::parse(&new_id()).unwrap();
            let product = Product { sku: sku.clone(), ..Product::parse(Some(&tea())).unwrap() };
            store.create(product).await.unwrap();
            store.set_stock(&sku, Count::parse(pieces).unwrap(), None).await.unwrap();
            skus.push(sku);
        }
        let ids = RESERVED_PIECES.iter().map(|_| ReservationId::parse(&new_id()).unwrap()).collect();
        Self { store, database: database.clone(), skus, ids }
    }

    fn items(&self, reservation: usize) -> Items {
        let pieces = self.skus.iter().zip(RESERVED_PIECES[reservation]).filter(|(_, pieces)| *pieces > 0);
        let item = |(sku, pieces): (&Sku, i64)| Item {
            sku: sku.clone(),
            quantity: Quantity::parse(pieces).unwrap(),
        };
        Items::of(pieces.map(item).collect()).unwrap()
    }

    async fn invoke(&self, op: &Op) -> Ret {
        let answer = match *op {
            Op::Reserve(n) => self.store.reserve(self.ids[n], &self.items(n), Lease::DEFAULT).await,
            Op::Commit(n) => self.store.commit(self.ids[n]).await,
            Op::Release(n) => self.store.release(self.ids[n]).await,
            Op::Lapse(n) => {
                let sql =
                    "UPDATE reservations SET expire_time = 1 WHERE reservation_id = $1 AND state = 'held'";
                let mut open = self.database.begin().await.unwrap();
                open.execute(sql, &[self.ids[n].to_string().into()]).await.unwrap();
                open.commit().await.unwrap();
                return Ret::Done;
            }
            Op::Sweep => {
                self.store.sweep().await.unwrap();
                return Ret::Done;
            }
            Op::SetStock(product, pieces) => {
                let count = Count::parse(pieces).unwrap();
                self.store.set_stock(&self.skus[product], count, None).await.unwrap();
                return self.pieces(product).await;
            }
            Op::Stock(product) => return self.pieces(product).await,
        };
        match answer.map(|reservation| reservation.state) {
            Ok(ReservationState::Held) => Ret::Held,
            Ok(ReservationState::Committed) => Ret::Committed,
            Ok(ReservationState::Released) => Ret::Released,
            Err(Error::OutOfStock(_)) => Ret::Short,
            Err(Error::Transition(_, InvalidTransition::Released)) => Ret::Final,
            Err(Error::Transition(_, InvalidTransition::NotFound)) => Ret::Unknown,
            other => panic!("{other:?}"),
        }
    }

    async fn pieces(&self, product: usize) -> Ret {
        let stock = self.store.stock(&self.skus[product]).await.unwrap();
        Ret::Pieces(stock.available, stock.reserved, stock.sold)
    }
}

async fn replay(database: &Database, ops: &[Op]) {
    let available = [4, 3];
    let (real, mut model) = (Real::new(database, available).await, Model::of(available));
    for op in ops {
        let before = model.totals();
        assert_eq!(real.invoke(op).await, model.invoke(op), "{op:?} of {ops:?}");
        for product in 0..PRODUCTS {
            let pieces = Op::Stock(product);
            assert_eq!(real.invoke(&pieces).await, model.invoke(&pieces), "after {op:?} of {ops:?}");
        }
        assert!(matches!(op, Op::SetStock(..)) || model.totals() == before, "{op:?} of {ops:?}");
    }
    // The sweep of the next sequence would end leases of this one.
    for n in 0..RESERVED_PIECES.len() {
        real.invoke(&Op::Release(n)).await;
    }
}

async fn no_sequence_makes_or_loses_a_piece(database: TestDatabase) {
    let open = Database::open(database.url(), &ProductService::MIGRATIONS).await.unwrap();
    let runtime = Handle::current();
    let config = Config { cases: 32, failure_persistence: None, ..Config::default() };
    let run = TestRunner::new(config).run(&vec(op(), 1..30), |ops| {
        block_in_place(|| runtime.block_on(replay(&open, &ops)));
        Ok(())
    });
    run.unwrap();
}

on_both_databases!(no_sequence_makes_or_loses_a_piece);
