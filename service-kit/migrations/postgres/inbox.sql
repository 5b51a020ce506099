-- One row for each event that was taken, for some days, and for each that could
-- not be, until somebody retries it.
CREATE TABLE inbox (
    event_id  TEXT COLLATE "C" PRIMARY KEY,
    -- Microseconds since 1970.
    take_time BIGINT NOT NULL,
    -- Why it was set aside; NULL when it was taken.
    parked    TEXT,
    -- The event as it came, where it was set aside: a `shop.events.v1.Event`.
    event     BYTEA,
    attempts  BIGINT NOT NULL DEFAULT 1
);

CREATE INDEX inbox_taken ON inbox (take_time) WHERE parked IS NULL;
CREATE INDEX inbox_parked ON inbox (take_time) WHERE parked IS NOT NULL;
