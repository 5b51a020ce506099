-- Nobody posts from here until the end, so that what is added up is all there is.
DROP INDEX ledger_sums;

-- What the ledger comes to, kept with every posting, so that nobody has to read
-- all of it for a balance. Each sum is in sixteen parts, for who changes a row
-- keeps others off it until the commit.
CREATE TABLE balances (
    currency TEXT NOT NULL,
    kind     TEXT NOT NULL CHECK (kind IN ('charge', 'refund')),
    -- The last digit of the charge's id, which is random.
    part     TEXT COLLATE "C" NOT NULL,
    entries  BIGINT NOT NULL,
    -- Of the shop's account, in minor units: `billions` times 10^9, and `rest`.
    -- Amounts come to more than 64 bits hold.
    billions BIGINT NOT NULL,
    rest     BIGINT NOT NULL,
    PRIMARY KEY (currency, kind, part)
) WITH (fillfactor = 50);

-- Here and not in what posts: replicas of the version before may do so yet.
CREATE FUNCTION keep_balance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO balances AS kept (currency, kind, part, entries, billions, rest)
    VALUES (NEW.currency, NEW.kind, right(NEW.charge_id, 1), 1, NEW.amount / 1000000000, NEW.amount % 1000000000)
    ON CONFLICT (currency, kind, part) DO UPDATE SET
        entries = kept.entries + 1,
        billions = kept.billions + excluded.billions,
        rest = kept.rest + excluded.rest;
    RETURN NULL;
END
$$;

CREATE TRIGGER ledger_balance AFTER INSERT ON ledger
    FOR EACH ROW WHEN (NEW.account = 'shop') EXECUTE FUNCTION keep_balance();

INSERT INTO balances (currency, kind, part, entries, billions, rest)
SELECT currency, kind, right(charge_id, 1), COUNT(*),
    CAST(SUM(amount / 1000000000) AS BIGINT), CAST(SUM(amount % 1000000000) AS BIGINT)
FROM ledger WHERE account = 'shop' GROUP BY currency, kind, right(charge_id, 1);
