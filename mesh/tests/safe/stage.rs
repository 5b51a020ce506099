//! A shop with data: people, products, carts, orders.

use serde_json::{Value, json};
use service_kit::testing::TestDatabase;
use uuid::Uuid;

use crate::shop::{ADMIN, ADMIN_PASSWORD, Caller, Person, Shop};

/// The shop and its callers.
pub(crate) struct Stage {
    pub(crate) shop: Shop,
    pub(crate) staff: Person,
    pub(crate) admin: Person,
    /// A customer with data of every kind.
    pub(crate) ada: Bundle,
    /// Another customer.
    pub(crate) bob: Bundle,
}

/// A customer with their data.
#[derive(Clone)]
pub(crate) struct Bundle {
    pub(crate) person: Person,
    pub(crate) sku: String,
    /// An order to be paid, shipped and completed.
    pub(crate) order: String,
    /// An order to be cancelled.
    pub(crate) other_order: String,
    /// The key of a charge.
    pub(crate) charge: String,
    /// The id of a reservation.
    pub(crate) reservation: String,
}

impl Bundle {
    pub(crate) fn who(&self) -> Caller {
        Caller::Person(self.person.clone())
    }
}

pub(crate) const ORDER: &str = "order-service";

impl Stage {
    pub(crate) async fn open(like: &TestDatabase) -> Self {
        let shop = Shop::open(like).await;
        let staff = shop.hire("eve@shop.example").await;
        let admin = shop.log_in(ADMIN, ADMIN_PASSWORD).await;
        let ada = bundle(&shop, &staff, "ada").await;
        let bob = bundle(&shop, &staff, "bob").await;
        Self { shop, staff, admin, ada, bob }
    }

    pub(crate) fn staff(&self) -> Caller {
        Caller::Person(self.staff.clone())
    }

    pub(crate) fn admin(&self) -> Caller {
        Caller::Person(self.admin.clone())
    }

    /// Fetches everything that belongs to one customer.
    pub(crate) async fn all_of(&self, bundle: &Bundle) -> Value {
        let (staff, own) = (self.staff(), json!({"customer_id": bundle.person.id}));
        let call = async |path: &str, body: &Value| self.shop.must(&staff, path, body.clone()).await;
        json!({
            "cart": call("shop.cart.v1.CartService/GetCart", &own).await,
            "orders": call("shop.order.v1.OrderService/ListOrders", &own).await,
            "charges": call("shop.payment.v1.PaymentService/ListCharges", &own).await,
            "account": call("shop.user.v1.UserService/GetUser", &json!({"user_id": bundle.person.id})).await,
            "product": call("shop.product.v1.ProductService/GetProduct", &json!({"product_id": bundle.sku})).await,
            "stock": call("shop.product.v1.ProductService/GetStock", &json!({"product_id": bundle.sku})).await,
        })
    }
}

pub(crate) fn uuid() -> String {
    Uuid::now_v7().to_string()
}

async fn bundle(shop: &Shop, staff: &Person, name: &str) -> Bundle {
    let person = shop.join(&format!("{name}@shop.example")).await;
    let (staff, who, sku) =
        (Caller::Person(staff.clone()), Caller::Person(person.clone()), format!("tea-of-{name}"));
    let price = json!({"currency_code": "EUR", "units": 4, "nanos": 500_000_000});
    let product = json!({"product": {"product_id": sku, "title": "Tea", "price": price}});
    shop.must(&staff, "shop.product.v1.ProductService/CreateProduct", product).await;
    let stock = json!({"product_id": sku, "available": 1_000});
    shop.must(&staff, "shop.product.v1.ProductService/SetStock", stock).await;
    let mut orders = Vec::new();
    for _ in 0..2 {
        fill(shop, &who, &person.id, &sku).await;
        let body = json!({"customer_id": person.id, "request_id": uuid()});
        let order = shop.must(&who, "shop.order.v1.OrderService/CreateOrder", body).await;
        orders.push(order["order_id"].as_str().unwrap().to_owned());
    }
    fill(shop, &who, &person.id, &sku).await;
    let (charge, reservation) = (uuid(), uuid());
    let service = Caller::Service(ORDER);
    let body = json!({
        "idempotency_key": charge, "customer_id": person.id, "amount": price, "payment_method": "pm_card_visa",
    });
    shop.must(&service, "shop.payment.v1.PaymentService/Charge", body).await;
    let items = json!([{"product_id": sku, "quantity": 1}]);
    let body = json!({"reservation_id": reservation, "items": items, "lease": "3600s"});
    shop.must(&service, "shop.product.v1.ProductService/ReserveStock", body).await;
    let [order, other_order] = orders.try_into().unwrap();
    Bundle { person, sku, order, other_order, charge, reservation }
}

/// Adds an item to a cart.
pub(crate) async fn fill(shop: &Shop, who: &Caller, customer: &str, sku: &str) {
    let body = json!({"customer_id": customer, "product_id": sku, "quantity": 1});
    shop.must(who, "shop.cart.v1.CartService/AddItem", body).await;
}
