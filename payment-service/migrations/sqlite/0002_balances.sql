-- What the ledger comes to, kept with every posting, so that nobody has to read
-- all of it for a balance. Each sum is in sixteen parts, as PostgreSQL wants it.
CREATE TABLE balances (
    currency TEXT NOT NULL,
    kind     TEXT NOT NULL CHECK (kind IN ('charge', 'refund')),
    -- The last digit of the charge's id, which is random.
    part     TEXT NOT NULL,
    entries  INTEGER NOT NULL,
    -- Of the shop's account, in minor units: `billions` times 10^9, and `rest`.
    -- Amounts come to more than 64 bits hold.
    billions INTEGER NOT NULL,
    rest     INTEGER NOT NULL,
    PRIMARY KEY (currency, kind, part)
) STRICT, WITHOUT ROWID;

-- Here and not in what posts: replicas of the version before may do so yet.
CREATE TRIGGER ledger_balance AFTER INSERT ON ledger WHEN NEW.account = 'shop'
BEGIN
    INSERT INTO balances (currency, kind, part, entries, billions, rest)
    VALUES (NEW.currency, NEW.kind, substr(NEW.charge_id, -1), 1, NEW.amount / 1000000000, NEW.amount % 1000000000)
    ON CONFLICT (currency, kind, part) DO UPDATE SET
        entries = entries + 1,
        billions = billions + excluded.billions,
        rest = rest + excluded.rest;
END;

INSERT INTO balances (currency, kind, part, entries, billions, rest)
SELECT currency, kind, substr(charge_id, -1), COUNT(*), SUM(amount / 1000000000), SUM(amount % 1000000000)
FROM ledger WHERE account = 'shop' GROUP BY currency, kind, substr(charge_id, -1);

DROP INDEX ledger_sums;
