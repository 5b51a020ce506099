//! A request for an order.

use service_kit::{
    id::Id,
    idempotency::IdempotentRequest,
    money::Money,
    value::{CustomerId, Etag},
};

/// The method whose request ids are kept.
pub const CREATE_ORDER: &str = "shop.order.v1.OrderService/CreateOrder";

/// The id of a request, which the caller chooses and repeats in every retry.
pub type RequestId = Id<OrderRequest>;

/// A request for an order of a customer's cart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderRequest {
    /// The customer.
    pub customer: CustomerId,
    /// The id of this request.
    pub id: RequestId,
    /// The version of the cart that the caller has seen, if given.
    pub cart_etag: Option<Etag>,
    /// The total that the caller expects, if given.
    pub expected_total: Option<Money>,
    /// The whole request, for its repetitions.
    pub idempotent: IdempotentRequest,
}
