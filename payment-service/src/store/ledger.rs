//! The ledger: two entries for each charge and refund, one of the shop and one of the
//! customers, so that the sum of all entries is zero. A trigger maintains the sums by
//! currency and kind in `balances`, in the transaction that posts.

use mesh_proto::google::r#type::Money as WireMoney;
use service_kit::{
    currency::Currency,
    database::{Database, Error, Transaction},
};

use crate::domain::{Charge, Posting};

/// Both entries of a posting. Their primary key prevents a second posting.
const POST: &str = "INSERT INTO ledger (charge_id, kind, account, amount, currency, create_time) \
     VALUES ($1, $2, 'shop', $3, $5, $6), ($1, $2, 'customers', $4, $5, $6)";

/// The sums are in two numbers, because they may exceed the integers of both databases.
const SUMS: &str = "SELECT kind, CAST(SUM(entries) AS BIGINT) AS entries, \
     CAST(SUM(billions) AS BIGINT) AS billions, CAST(SUM(rest) AS BIGINT) AS rest \
     FROM balances WHERE currency = $1 GROUP BY kind";
const BILLION: i128 = 1_000_000_000;

/// Adds a posting to the ledger.
pub(super) async fn post(
    open: &mut Transaction,
    charge: &Charge,
    posting: Option<Posting>,
) -> Result<(), Error> {
    let (Some(posting), Some(terms)) = (posting, &charge.terms) else { return Ok(()) };
    // It is positive, so the negation cannot overflow.
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

/// The balance of the ledger in one currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// The charges.
    pub charged: Postings,
    /// The refunds.
    pub refunded: Postings,
    currency: Currency,
}

/// Postings of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Postings {
    /// Their number.
    pub entries: i64,
    minor: i128,
}

impl Balance {
    /// The currency of all amounts.
    #[must_use]
    pub fn currency(&self) -> Currency {
        self.currency
    }

    /// The charged amount, the refunded amount, and the difference; `None` when one
    /// exceeds the largest amount of the protocol.
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
    let mut balance = Balance { charged: Postings::default(), refunded: Postings::default(), currency };
    for row in &rows {
        let [billions, rest]: [i64; 2] = [row.get("billions")?, row.get("rest")?];
        // Two numbers of 64 bits, one of them times 10^9: far below 2^127.
        let minor = i128::from(billions) * BILLION + i128::from(rest);
        let entries = row.get("entries")?;
        match row.get::<String>("kind")?.as_str() {
            "charge" => balance.charged = Postings { entries, minor },
            _ => balance.refunded = Postings { entries, minor: -minor },
        }
    }
    Ok(balance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_may_exceed_the_largest_charge_but_not_the_protocol() {
        let eur: Currency = "EUR".parse().unwrap();
        let sum = wire(i128::from(i64::MAX) * 100 + 99, eur).unwrap();
        assert_eq!((sum.units, sum.nanos), (i64::MAX, 990_000_000));
        assert_eq!(wire(i128::from(i64::MAX) * 100 + 100, eur), None);
        assert_eq!(wire(0, "JPY".parse().unwrap()).map(|sum| (sum.units, sum.nanos)), Some((0, 0)));
    }
}
