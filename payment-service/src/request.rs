//! Requests, parsed into valid values.

use mesh_proto::shop::payment::v1::{ChargeRequest, ListChargesRequest};
use service_kit::{
    currency::Currency,
    error::{Fault, Fields, invalid},
    money::Money,
    page::Page,
    value::CustomerId,
};

use crate::domain::{Amount, AmountError, FencingToken, IdempotencyKey, PaymentMethod, Terms};

pub(crate) fn key(text: &str) -> Result<IdempotencyKey, Fault> {
    IdempotencyKey::parse(text).map_err(|why| invalid("idempotency_key", why))
}

pub(crate) fn currency(text: &str) -> Result<Currency, Fault> {
    text.parse().map_err(|why| invalid("currency_code", why))
}

/// An attempt to charge a key.
pub(crate) struct ChargeAttempt {
    pub(crate) key: IdempotencyKey,
    pub(crate) terms: Terms,
    pub(crate) token: FencingToken,
}

impl TryFrom<ChargeRequest> for ChargeAttempt {
    type Error = Fault;

    fn try_from(from: ChargeRequest) -> Result<Self, Fault> {
        let mut fields = Fields::default();
        let key = fields.take("idempotency_key", IdempotencyKey::parse(&from.idempotency_key));
        let customer = fields.take("customer_id", CustomerId::parse(&from.customer_id));
        let amount = Money::parse(from.amount.as_ref()).map_err(AmountError::from).and_then(Amount::of);
        let amount = fields.take("amount", amount);
        let method = fields.take("payment_method", PaymentMethod::parse(&from.payment_method));
        let token = fields.take("fencing_token", FencingToken::parse(from.fencing_token));
        let (Some(key), Some(customer), Some(amount), Some(method), Some(token)) =
            (key, customer, amount, method, token)
        else {
            return Err(fields.fault());
        };
        Ok(Self { key, terms: Terms { customer, amount, method }, token })
    }
}

/// A request for a page of charges: those of a customer, or all.
pub(crate) struct ListRequest {
    pub(crate) customer: Option<CustomerId>,
    pub(crate) page: Page,
}

impl TryFrom<ListChargesRequest> for ListRequest {
    type Error = Fault;

    fn try_from(from: ListChargesRequest) -> Result<Self, Fault> {
        let mut fields = Fields::default();
        let customer = match from.customer_id.as_str() {
            "" => Some(None),
            text => fields.take("customer_id", CustomerId::parse(text)).map(Some),
        };
        let scope = format!("charges of {}", from.customer_id);
        let page = Page::take(&mut fields, &scope, from.page_size, &from.page_token);
        let (Some(customer), Some(page)) = (customer, page) else { return Err(fields.fault()) };
        Ok(Self { customer, page })
    }
}
