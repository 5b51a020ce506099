-- One row for each request that asked for an effect, for as long as the same
-- request is answered the same.
CREATE TABLE idempotency (
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
    PRIMARY KEY (caller, method, request_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_by_reference ON idempotency (method, reference);
CREATE INDEX idempotency_by_expiry ON idempotency (expire_time);
