//! The parsing of requests.

use mesh_proto::shop::order::v1::{CreateOrderRequest, ListOrdersRequest, PayOrderRequest};
use service_kit::{
    auth::Caller,
    error::{Fault, Fields, invalid},
    idempotency::IdempotentRequest,
    money::Money,
    page::Page,
    value::{CustomerId, Etag},
};

use crate::domain::{CREATE_ORDER, OrderId, OrderRequest, PaymentMethod, RequestId};

pub(crate) fn order_id(text: &str) -> Result<OrderId, Fault> {
    OrderId::parse(text).map_err(|why| invalid("order_id", why))
}

pub(crate) fn order_request(caller: &Caller, from: &CreateOrderRequest) -> Result<OrderRequest, Fault> {
    let mut fields = Fields::default();
    let customer = fields.take("customer_id", CustomerId::parse(&from.customer_id));
    let id = fields.take("request_id", RequestId::parse(&from.request_id));
    let cart_etag = fields.take("cart_etag", Etag::parse(&from.cart_etag));
    let total = from.expected_total.as_ref().map(|total| Money::parse(Some(total))).transpose();
    let total = fields.take("expected_total", total);
    let (Some(customer), Some(id), Some(cart_etag), Some(expected_total)) = (customer, id, cart_etag, total)
    else {
        return Err(fields.fault());
    };
    // The parsed values, so that another spelling is the same request.
    let body = CreateOrderRequest {
        customer_id: customer.as_str().to_owned(),
        request_id: id.to_string(),
        cart_etag: cart_etag.map(|etag| etag.to_string()).unwrap_or_default(),
        expected_total: expected_total.map(Into::into),
    };
    let idempotent = IdempotentRequest::new(caller, CREATE_ORDER, id, &body);
    Ok(OrderRequest { customer, id, cart_etag, expected_total, idempotent })
}

pub(crate) fn payment(from: &PayOrderRequest) -> Result<(OrderId, PaymentMethod), Fault> {
    let mut fields = Fields::default();
    let id = fields.take("order_id", OrderId::parse(&from.order_id));
    let method = fields.take("payment_method", PaymentMethod::parse(&from.payment_method));
    id.zip(method).ok_or_else(|| fields.fault())
}

/// A page of a customer's orders.
pub(crate) struct ListRequest {
    pub(crate) customer: CustomerId,
    pub(crate) page: Page,
}

impl TryFrom<ListOrdersRequest> for ListRequest {
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
