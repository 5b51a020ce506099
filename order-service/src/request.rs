//! Requests, read into values that hold.

use mesh_proto::shop::order::v1::{CreateOrderRequest, ListOrdersRequest, PayOrderRequest};
use service_kit::{
    auth::Caller,
    error::{Fault, Fields, invalid},
    idempotency::IdempotentRequest,
    money::Money,
    page::Page,
    value::{CustomerId, Etag},
};

use crate::{
    checkout::{METHOD, Wanted},
    domain::{OrderId, PaymentMethod, RequestId},
};

pub(crate) fn order_id(text: &str) -> Result<OrderId, Fault> {
    OrderId::parse(text).map_err(|why| invalid("order_id", why))
}

/// What this caller wants.
pub(crate) fn wanted(caller: &Caller, from: &CreateOrderRequest) -> Result<Wanted, Fault> {
    let mut fields = Fields::default();
    let customer = fields.take("customer_id", CustomerId::parse(&from.customer_id));
    let request = fields.take("request_id", RequestId::parse(&from.request_id));
    let seen = fields.take("cart_etag", Etag::parse(&from.cart_etag));
    let total = from.expected_total.as_ref().map(|total| Money::parse(Some(total))).transpose();
    let total = fields.take("expected_total", total);
    let (Some(customer), Some(request), Some(seen), Some(total)) = (customer, request, seen, total) else {
        return Err(fields.fault());
    };
    // As it was understood: however it was spelt, it is the same request.
    let body = CreateOrderRequest {
        customer_id: customer.as_str().to_owned(),
        request_id: request.to_string(),
        cart_etag: seen.map(|etag| etag.to_string()).unwrap_or_default(),
        expected_total: total.map(Into::into),
    };
    let asked = IdempotentRequest::new(caller, METHOD, request, &body);
    Ok(Wanted { customer, request, seen, total, asked })
}

/// Which order, to be paid with what.
pub(crate) fn payment(from: &PayOrderRequest) -> Result<(OrderId, PaymentMethod), Fault> {
    let mut fields = Fields::default();
    let id = fields.take("order_id", OrderId::parse(&from.order_id));
    let method = fields.take("payment_method", PaymentMethod::parse(&from.payment_method));
    id.zip(method).ok_or_else(|| fields.fault())
}

/// Whose orders, and which page of them.
pub(crate) struct Listing {
    pub(crate) customer: CustomerId,
    pub(crate) page: Page,
}

impl TryFrom<ListOrdersRequest> for Listing {
    type Error = Fault;

    fn try_from(from: ListOrdersRequest) -> Result<Self, Fault> {
        let mut fields = Fields::default();
        let customer = fields.take("customer_id", CustomerId::parse(&from.customer_id));
        let scope = format!("orders of {}", from.customer_id);
        let page = Page::take(&mut fields, &scope, from.page_size, &from.page_token);
        let (Some(customer), Some(page)) = (customer, page) else { return Err(fields.fault()) };
        Ok(Self { customer, page })
    }
}
