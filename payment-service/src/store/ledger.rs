//! The ledger: what was charged and what went back, each twice. What the shop
//! gets the customers give, so that all entries together come to nothing. What
//! they come to by currency and kind, the database itself keeps up to date in
//! `balances`, in the transaction that posts.

use mesh_proto::google::r#type::Money as WireMoney;
use service_kit::{
    currency::Currency,
    database::{Database, Error, Transaction},
};

use crate::domain::{Charge, Posting};

/// Both entries at once. Their key holds a charge from being posted twice.
const POST: &str = "INSERT INTO ledger (charge_id, kind, account, amount, currency, create_time) \
     VALUES ($1, $2, 'shop', $3, $5, $6), ($1, $2, 'customers', $4, $5, $6)";

/// In two numbers, since the sum of amounts may be more than either database
/// adds up.
const SUMS: &str = "SELECT kind, CAST(SUM(entries) AS BIGINT) AS entries, \
     CAST(SUM(billions) AS BIGINT) AS billions, CAST(SUM(rest) AS BIGINT) AS rest \
     FROM balances WHERE currency = $1 GROUP BY kind";
const BILLION: i128 = 1_000_000_000;

/// Puts a posting into the ledger.
pub(super) async fn post(
    open: &mut Transaction,
    charge: &Charge,
    posting: Option<Posting>,
) -> Result<(), Error> {
    let (Some(posting), Some(terms)) = (posting, &charge.terms) else { return Ok(()) };
    // Positive, so that its negative fits as well.
    let amount = terms.amount.money();
    let (kind, shop) = match posting {
        Posting::Charge => ("charge", amount.minor()),
        Posting::Refund => ("refund", -amount.minor()),
    };
    let values = [
        charge.id.to_string().into(),
        kind.into(),
        shop.into(),
        (-shop).into(),
        amount.currency().code().into(),
        charge.updated.micros().into(),
    ];
    open.post(POST, &values).await
}

/// What the ledger holds in one currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// What was charged.
    pub charged: Side,
    /// What was given back.
    pub refunded: Side,
    currency: Currency,
}

/// Postings of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// How many.
    pub entries: i64,
    minor: i128,
}

impl Balance {
    /// The currency of all amounts.
    #[must_use]
    pub fn currency(&self) -> Currency {
        self.currency
    }

    /// What was charged, what was given back, and what remains; `None` when one
    /// is more than an amount on the wire can be.
    #[must_use]
    pub fn amounts(&self) -> Option<[WireMoney; 3]> {
        let [charged, refunded] = [self.charged.minor, self.refunded.minor];
        let wire = |minor| wire(minor, self.currency);
        Some([wire(charged)?, wire(refunded)?, wire(charged.checked_sub(refunded)?)?])
    }
}

fn wire(minor: i128, currency: Currency) -> Option<WireMoney> {
    let per_unit = i128::from(currency.minor_per_unit());
    let nanos = minor % per_unit * (BILLION / per_unit);
    Some(WireMoney {
        currency_code: currency.to_string(),
        units: i64::try_from(minor / per_unit).ok()?,
        nanos: i32::try_from(nanos).ok()?,
    })
}

pub(super) async fn balance(database: &Database, currency: Currency) -> Result<Balance, Error> {
    let rows = database.rows(SUMS, &[currency.code().into()]).await?;
    let mut balance = Balance { charged: Side::default(), refunded: Side::default(), currency };
    for row in &rows {
        let [billions, rest]: [i64; 2] = [row.get("billions")?, row.get("rest")?];
        // Two numbers of 64 bits, one of them times 10^9: far below 2^127.
        let minor = i128::from(billions) * BILLION + i128::from(rest);
        let entries = row.get("entries")?;
        match row.get::<String>("kind")?.as_str() {
            "charge" => balance.charged = Side { entries, minor },
            _ => balance.refunded = Side { entries, minor: -minor },
        }
    }
    Ok(balance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_beyond_a_charge_are_told_and_those_beyond_the_wire_are_not() {
        let eur: Currency = "EUR".parse().unwrap();
        let sum = wire(i128::from(i64::MAX) * 100 + 99, eur).unwrap();
        assert_eq!((sum.units, sum.nanos), (i64::MAX, 990_000_000));
        assert_eq!(wire(i128::from(i64::MAX) * 100 + 100, eur), None);
        assert_eq!(wire(0, "JPY".parse().unwrap()).map(|sum| (sum.units, sum.nanos)), Some((0, 0)));
    }
}
