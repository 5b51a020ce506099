-- One row for each request that asked for an effect, for as long as the same
-- request is answered the same.
CREATE TABLE idempotency (
    -- Who asked: the ids of two callers have nothing to do with each other.
    caller      TEXT COLLATE "C" NOT NULL,
    method      TEXT COLLATE "C" NOT NULL,
    request_id  TEXT COLLATE "C" NOT NULL,
    -- The SHA-256 of what was asked for.
    body        BYTEA NOT NULL,
    -- What has the effect, such as the id of an order.
    reference   TEXT COLLATE "C" NOT NULL,
    -- The code of the answer; NULL while there is none.
    code        BIGINT,
    -- The answer: a message, or for a refusal a `google.rpc.Status`.
    answer      BYTEA,
    -- Microseconds since 1970.
    expire_time BIGINT NOT NULL,
    PRIMARY KEY (caller, method, request_id)
);

CREATE INDEX idempotency_by_reference ON idempotency (method, reference);
CREATE INDEX idempotency_by_expiry ON idempotency (expire_time);
