//! A database of an earlier version, with orders in it.

use mesh_proto::shop::order::v1::{CancelReason, OrderState};
use order_service::OrderService;
use service_kit::{
    database::{Database, Migrations},
    on_both_databases,
    service::Service,
    testing::TestDatabase,
};
use tonic::Code;

use crate::{
    app::{CUSTOMER, creation, new_request, refused},
    fakes::{CARD, FakeApp, item},
};

const FIRST: Migrations = Migrations {
    sqlite: &[OrderService::MIGRATIONS.sqlite[0]],
    postgres: &[OrderService::MIGRATIONS.postgres[0]],
};

const ORDER: &str = "INSERT INTO orders (order_id, customer_id, request_id, request_etag, cart_etag, state, total, \
     currency, create_time, update_time, version) VALUES ($1, $2, $3, '1', '1', $4, 499, 'EUR', 7, 8, $5)";
const LINE: &str = "INSERT INTO order_lines (order_id, position, product_id, title, unit_price, quantity) \
     VALUES ($1, 0, 'tea', 'A tea', 499, 1)";

async fn write(database: &TestDatabase, orders: &[(&str, &str, &str, i64)]) {
    let database = Database::open(database.url(), &FIRST).await.unwrap();
    for (id, request, state, version) in orders {
        let mut open = database.begin().await.unwrap();
        let values = [(*id).into(), CUSTOMER.into(), (*request).into(), (*state).into(), (*version).into()];
        open.execute(ORDER, &values).await.unwrap();
        open.execute(LINE, &[(*id).into()]).await.unwrap();
        open.commit().await.unwrap();
    }
    database.close().await;
}

async fn orders_of_the_first_version_survive_a_migration(database: TestDatabase) {
    let ids: [String; 4] = std::array::from_fn(|_| new_request());
    let [kept, gone, request, other] = &ids;
    write(&database, &[(kept, request, "confirmed", 1), (gone, other, "cancelled", 2)]).await;
    let app = FakeApp::spawn(database, 1).await;
    let confirmed = app.get(kept).await.unwrap();
    assert_eq!((confirmed.state(), confirmed.lines.len()), (OrderState::Confirmed, 1));
    let cancelled = app.get(gone).await.unwrap();
    assert_eq!(
        (cancelled.state(), cancelled.cancel_reason()),
        (OrderState::Cancelled, CancelReason::Requested)
    );
    // Their requests are answered as they were, also after what came since, and
    // whether or not there is a cart that could be ordered.
    for _ in 0..2 {
        for (request, id) in [(request, kept), (other, gone)] {
            let answer = app.create(0, creation(request, "1")).await.unwrap();
            assert_eq!((answer.state(), answer.etag.as_str()), (OrderState::Confirmed, "1"));
            assert_eq!((&answer.order_id, &answer.create_time), (id, &answer.update_time));
            refused(app.create(0, creation(request, "2")).await, Code::InvalidArgument, "REQUEST_ID_REUSED");
        }
        app.carts.put(CUSTOMER, [item("tea", 499, 1)]);
    }
    assert_eq!(app.carts.cart(CUSTOMER).items.len(), 2);
    assert_eq!(app.pay(0, kept, CARD).await.unwrap().state(), OrderState::Paid);
    assert_eq!(app.cancel(0, kept).await.unwrap().state(), OrderState::Cancelled);
    assert_eq!(app.list(CUSTOMER, 0, "").await.0.len(), 2);
    app.ordered(0, CUSTOMER).await;
}

on_both_databases!(orders_of_the_first_version_survive_a_migration);
