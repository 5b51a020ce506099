-- Rows in the order in which they came, so that those that are written together
-- lie together: sorted by ids that callers choose by chance, each was on a page
-- of its own, and that page was written twice. A table changes its order only by
-- being made anew.
CREATE TABLE idempotency_2 (
    -- Who asked: the ids of two callers have nothing to do with each other.
    caller      TEXT NOT NULL,
    method      TEXT NOT NULL,
    request_id  TEXT NOT NULL,
    -- The SHA-256 of what was asked for.
    body        BLOB NOT NULL,
    -- What has the effect, such as the id of an order.
    reference   TEXT NOT NULL,
    -- The code of the answer; NULL while there is none.
    code        INTEGER,
    -- The answer: a message, or for a refusal a `google.rpc.Status`.
    answer      BLOB,
    -- Microseconds since 1970.
    expire_time INTEGER NOT NULL,
    UNIQUE (caller, method, request_id)
) STRICT;

INSERT INTO idempotency_2 (caller, method, request_id, body, reference, code, answer, expire_time)
SELECT caller, method, request_id, body, reference, code, answer, expire_time FROM idempotency
ORDER BY expire_time;

DROP TABLE idempotency;
ALTER TABLE idempotency_2 RENAME TO idempotency;

CREATE INDEX idempotency_by_reference ON idempotency (method, reference);
CREATE INDEX idempotency_by_expiry ON idempotency (expire_time);
