-- One row for each event and subscriber, until it is delivered.
CREATE TABLE outbox (
    position     INTEGER PRIMARY KEY AUTOINCREMENT,
    subscriber   TEXT NOT NULL,
    event_id     TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    sequence     INTEGER NOT NULL,
    -- A `shop.events.v1.Event`.
    event        BLOB NOT NULL,
    -- Microseconds since 1970.
    create_time  INTEGER NOT NULL,
    attempts     INTEGER NOT NULL DEFAULT 0,
    -- Not tried before; microseconds since 1970.
    due_time     INTEGER NOT NULL DEFAULT 0,
    -- Why it was set aside; NULL while it waits.
    parked       TEXT,
    UNIQUE (event_id, subscriber)
) STRICT;

CREATE INDEX outbox_waiting ON outbox (subscriber, position) WHERE parked IS NULL;
CREATE INDEX outbox_parked ON outbox (position) WHERE parked IS NOT NULL;
-- What failed before and may hold back its aggregate; few.
CREATE INDEX outbox_held ON outbox (subscriber, aggregate_id, position) WHERE due_time > 0 AND parked IS NULL;
