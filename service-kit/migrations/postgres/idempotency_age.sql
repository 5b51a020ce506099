-- expand
-- For how many minutes the service has run since this table is there, whatever
-- clocks have said meanwhile. One row.
CREATE TABLE idempotency_age (
    id      BIGINT PRIMARY KEY CHECK (id = 1),
    minutes BIGINT NOT NULL
);

INSERT INTO idempotency_age (id, minutes) VALUES (1, 0);

-- In which of these minutes the request came. Those of before, and those of
-- replicas of an earlier version, count as if they came a day later, so that
-- none is forgotten early.
ALTER TABLE idempotency ADD COLUMN claim_minute BIGINT NOT NULL DEFAULT 1440;

CREATE INDEX idempotency_by_age ON idempotency (claim_minute);
-- Only replicas of an earlier version forget by it, and can without an index.
DROP INDEX idempotency_by_expiry;
