//! Requests, read into values that hold.

use mesh_proto::shop::order::v1::{CreateOrderRequest, ListOrdersRequest};
use service_kit::{
    error::{Fault, Fields, invalid},
    page::Page,
    value::{CustomerId, Etag},
};

use crate::{
    checkout::Wanted,
    domain::{OrderId, RequestId},
};

pub(crate) fn order_id(text: &str) -> Result<OrderId, Fault> {
    OrderId::parse(text).map_err(|why| invalid("order_id", why))
}

impl TryFrom<CreateOrderRequest> for Wanted {
    type Error = Fault;

    fn try_from(from: CreateOrderRequest) -> Result<Self, Fault> {
        let mut fields = Fields::default();
        let customer = fields.take("customer_id", CustomerId::parse(&from.customer_id));
        let request = fields.take("request_id", RequestId::parse(&from.request_id));
        let seen = fields.take("cart_etag", Etag::parse(&from.cart_etag));
        let (Some(customer), Some(request), Some(seen)) = (customer, request, seen) else {
            return Err(fields.fault());
        };
        Ok(Self { customer, request, seen })
    }
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
