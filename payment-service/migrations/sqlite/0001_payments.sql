-- What became of each key.
CREATE TABLE charges (
    -- A version 7 UUID: sorted by it, charges are sorted by time.
    charge_id       TEXT NOT NULL PRIMARY KEY,
    -- What it was asked for with; one key makes one charge.
    idempotency_key TEXT NOT NULL UNIQUE,
    state           TEXT NOT NULL CHECK (state IN ('succeeded', 'declined', 'refunded', 'voided')),
    -- These four are empty, or 0, when it was voided before anybody tried.
    customer_id     TEXT NOT NULL,
    -- In minor units of the currency.
    amount          INTEGER NOT NULL CHECK (amount >= 0),
    currency        TEXT NOT NULL,
    payment_method  TEXT NOT NULL,
    -- Microseconds since 1970.
    create_time     INTEGER NOT NULL,
    update_time     INTEGER NOT NULL,
    CHECK (amount > 0 OR state = 'voided')
) STRICT, WITHOUT ROWID;

CREATE INDEX charges_by_customer ON charges (customer_id, charge_id);

-- Double entry: what one account gets another gives. Only ever added to, and
-- each charge and each refund only once.
CREATE TABLE ledger (
    charge_id   TEXT NOT NULL REFERENCES charges (charge_id),
    kind        TEXT NOT NULL CHECK (kind IN ('charge', 'refund')),
    account     TEXT NOT NULL CHECK (account IN ('customers', 'shop')),
    -- In minor units; negative is what the account gives.
    amount      INTEGER NOT NULL CHECK (amount <> 0),
    currency    TEXT NOT NULL,
    -- Microseconds since 1970.
    create_time INTEGER NOT NULL,
    PRIMARY KEY (charge_id, kind, account)
) STRICT, WITHOUT ROWID;

CREATE INDEX ledger_sums ON ledger (currency, account, kind, amount);
