//! Charges and the ledger in the database.

use service_kit::{
    currency::Currency,
    database::{Database, Error as DatabaseError, Row, Transaction, Value},
    money::Money,
    timestamp::Timestamp,
    value::CustomerId,
};

use crate::{
    Error,
    domain::{
        Amount, Attempt, Charge, ChargeEvent, ChargeId, ChargeState, FencingToken, IdempotencyKey,
        PaymentMethod, Terms,
    },
};

mod ledger;

pub use ledger::{Balance, Postings};

macro_rules! columns {
    () => {
        "charge_id, idempotency_key, state, customer_id, amount, currency, payment_method, create_time, \
         update_time, fencing_token"
    };
}

const BY_KEY: &str = concat!("SELECT ", columns!(), " FROM charges WHERE idempotency_key = $1");

const ALL: &str =
    concat!("SELECT ", columns!(), " FROM charges WHERE charge_id < $1 ORDER BY charge_id DESC LIMIT $2");

const OF_CUSTOMER: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM charges WHERE customer_id = $1 AND charge_id < $2 ORDER BY charge_id DESC LIMIT $3"
);

/// Waits for a transaction that is inserting the same key.
const INSERT: &str = concat!(
    "INSERT INTO charges (",
    columns!(),
    ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (idempotency_key) DO NOTHING"
);

/// Locks the key until the transaction ends, and reads it.
const LOCK: &str =
    concat!("UPDATE charges SET state = state WHERE idempotency_key = $1 RETURNING ", columns!());

const UPDATE: &str = "UPDATE charges SET state = $3, customer_id = $4, amount = $5, currency = $6, \
     payment_method = $7, update_time = $9, fencing_token = $10 \
     WHERE charge_id = $1 AND idempotency_key = $2 AND create_time = $8";

/// A text after every id, for the first page.
const AFTER_ALL_IDS: &str = "~";

/// The charges in the database.
#[derive(Clone, Debug)]
pub struct Store {
    database: Database,
}

impl Store {
    /// The charges in `database`.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    /// Charges `terms`, unless the key was charged before. The returned charge has
    /// succeeded, or is declined when `declined` is true or the attempt `token` was
    /// declined before.
    ///
    /// # Errors
    /// [`Error::KeyReused`], [`Error::Superseded`], [`Error::Voided`],
    /// [`Error::Database`].
    ///
    /// # Cancel safety
    /// It may have been charged; call [`get`](Self::get) to know.
    pub async fn charge(
        &self,
        key: IdempotencyKey,
        terms: &Terms,
        token: FencingToken,
        declined: bool,
    ) -> Result<Charge, Error> {
        let event = if declined { ChargeEvent::Decline } else { ChargeEvent::Charge };
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let done = charge(&mut open, key, terms, token, event).await;
            if let Some(done) = unit.end(open, done).await {
                return done;
            }
        }
    }

    /// Refunds the charge of a key, and prevents all later charges.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// It may have been refunded; repeat the call to be sure.
    pub async fn refund(&self, key: IdempotencyKey) -> Result<Charge, Error> {
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let done = refund(&mut open, key).await;
            if let Some(done) = unit.end(open, done).await {
                return done;
            }
        }
    }

    /// The charge of a key.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Database`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn get(&self, key: IdempotencyKey) -> Result<Charge, Error> {
        let row = self.database.row(BY_KEY, &[key.to_string().into()]).await?;
        let row = row.ok_or(Error::NotFound(key))?;
        Ok(read(&row)?)
    }

    /// Up to `limit` charges before the id `after`, newest first.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn list(
        &self,
        customer: Option<&CustomerId>,
        after: Option<String>,
        limit: usize,
    ) -> Result<Vec<Charge>, DatabaseError> {
        let limit: Value = i64::try_from(limit).unwrap_or(i64::MAX).into();
        let before: Value = after.unwrap_or_else(|| AFTER_ALL_IDS.to_owned()).into();
        let rows = match customer {
            Some(customer) => {
                self.database.rows(OF_CUSTOMER, &[customer.as_str().into(), before, limit]).await?
            }
            None => self.database.rows(ALL, &[before, limit]).await?,
        };
        rows.iter().map(read).collect()
    }

    /// The balance of the ledger in one currency.
    ///
    /// # Errors
    /// When the database fails.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn balance(&self, currency: Currency) -> Result<Balance, DatabaseError> {
        ledger::balance(&self.database, currency).await
    }
}

async fn charge(
    open: &mut Transaction,
    key: IdempotencyKey,
    terms: &Terms,
    token: FencingToken,
    event: ChargeEvent,
) -> Result<Charge, Error> {
    let now = Timestamp::now();
    let (state, posting) = ChargeState::after(None, event).map_err(|_| Error::Voided(key))?;
    let terms = Some(terms.clone());
    let id = ChargeId::new(now);
    let new = Charge { id, key, state, terms: terms.clone(), token, created: now, updated: now };
    if open.execute(INSERT, &values(&new)).await? == 1 {
        ledger::post(open, &new, posting).await?;
        return Ok(new);
    }
    let stored = lock(open, key).await?.ok_or_else(missing_charge)?;
    match stored.classify(token) {
        Attempt::New => {}
        Attempt::Declined => {
            open.set_rollback_only();
            return Ok(stored);
        }
        Attempt::Superseded => return Err(Error::Superseded(key)),
    }
    let (state, posting) = ChargeState::after(Some(stored.state), event).map_err(|_| Error::Voided(key))?;
    if stored.state == ChargeState::Succeeded {
        let fields = stored.terms.iter().zip(&terms).flat_map(|(stored, new)| stored.differences(new));
        let fields: Vec<_> = fields.collect();
        open.set_rollback_only();
        return if fields.is_empty() { Ok(stored) } else { Err(Error::KeyReused(key, fields)) };
    }
    let charge =
        Charge { state, terms, token: token.max(stored.token), updated: now.max(stored.updated), ..stored };
    open.post(UPDATE, &values(&charge)).await?;
    ledger::post(open, &charge, posting).await?;
    Ok(charge)
}

async fn refund(open: &mut Transaction, key: IdempotencyKey) -> Result<Charge, Error> {
    let now = Timestamp::now();
    let stored = match lock(open, key).await? {
        Some(stored) => stored,
        None => {
            let (state, _) = ChargeState::after(None, ChargeEvent::Refund).map_err(|_| Error::Voided(key))?;
            let (id, token) = (ChargeId::new(now), FencingToken::default());
            let void = Charge { id, key, state, terms: None, token, created: now, updated: now };
            if open.execute(INSERT, &values(&void)).await? == 1 {
                return Ok(void);
            }
            // A concurrent transaction has inserted it, and has ended by now.
            lock(open, key).await?.ok_or_else(missing_charge)?
        }
    };
    let (state, posting) =
        ChargeState::after(Some(stored.state), ChargeEvent::Refund).map_err(|_| Error::Voided(key))?;
    if state == stored.state {
        open.set_rollback_only();
        return Ok(stored);
    }
    let charge = Charge { state, updated: now.max(stored.updated), ..stored };
    open.post(UPDATE, &values(&charge)).await?;
    ledger::post(open, &charge, posting).await?;
    Ok(charge)
}

async fn lock(open: &mut Transaction, key: IdempotencyKey) -> Result<Option<Charge>, DatabaseError> {
    let row = open.row(LOCK, &[key.to_string().into()]).await?;
    row.as_ref().map(read).transpose()
}

/// Charges are never deleted, so a conflicting one must exist.
fn missing_charge() -> Error {
    DatabaseError::corrupt("idempotency_key", "the conflicting charge is missing").into()
}

fn values(charge: &Charge) -> [Value; 10] {
    let terms = charge.terms.as_ref();
    let money = terms.map(|terms| terms.amount.money());
    [
        charge.id.to_string().into(),
        charge.key.to_string().into(),
        charge.state.as_str().into(),
        terms.map_or("", |terms| terms.customer.as_str()).into(),
        money.map_or(0, Money::minor).into(),
        money.map_or("", |money| money.currency().code()).into(),
        terms.map_or("", |terms| terms.method.as_str()).into(),
        charge.created.micros().into(),
        charge.updated.micros().into(),
        charge.token.get().into(),
    ]
}

fn read(row: &Row) -> Result<Charge, DatabaseError> {
    let text = |column| row.get::<String>(column);
    let id = ChargeId::parse(&text("charge_id")?);
    let key = IdempotencyKey::parse(&text("idempotency_key")?);
    let state = ChargeState::parse(&text("state")?);
    Ok(Charge {
        id: id.map_err(|why| DatabaseError::corrupt("charge_id", why))?,
        key: key.map_err(|why| DatabaseError::corrupt("idempotency_key", why))?,
        state: state.map_err(|why| DatabaseError::corrupt("state", why))?,
        terms: read_terms(row)?,
        token: FencingToken::parse(row.get("fencing_token")?)
            .map_err(|why| DatabaseError::corrupt("fencing_token", why))?,
        created: Timestamp::of_micros(row.get("create_time")?),
        updated: Timestamp::of_micros(row.get("update_time")?),
    })
}

fn read_terms(row: &Row) -> Result<Option<Terms>, DatabaseError> {
    let text = |column| row.get::<String>(column);
    let customer = text("customer_id")?;
    if customer.is_empty() {
        return Ok(None);
    }
    let currency = text("currency")?.parse().map_err(|why| DatabaseError::corrupt("currency", why))?;
    let money = Money::new(row.get("amount")?, currency);
    let money = money.map_err(|why| DatabaseError::corrupt("amount", why))?;
    let method = PaymentMethod::parse(&text("payment_method")?);
    Ok(Some(Terms {
        customer: CustomerId::parse(&customer).map_err(|why| DatabaseError::corrupt("customer_id", why))?,
        amount: Amount::of(money).map_err(|why| DatabaseError::corrupt("amount", why))?,
        method: method.map_err(|why| DatabaseError::corrupt("payment_method", why))?,
    }))
}
