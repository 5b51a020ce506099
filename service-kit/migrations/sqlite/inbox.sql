-- One row for each event that was taken, for some days, and for each that could
-- not be, until somebody retries it.
CREATE TABLE inbox (
    event_id  TEXT PRIMARY KEY,
    -- Microseconds since 1970.
    take_time INTEGER NOT NULL,
    -- Why it was set aside; NULL when it was taken.
    parked    TEXT,
    -- The event as it came, where it was set aside: a `shop.events.v1.Event`.
    event     BLOB,
    attempts  INTEGER NOT NULL DEFAULT 1
) STRICT;

CREATE INDEX inbox_taken ON inbox (take_time) WHERE parked IS NULL;
CREATE INDEX inbox_parked ON inbox (take_time) WHERE parked IS NOT NULL;
