-- One row for each event and subscriber, until it is delivered.
CREATE TABLE outbox (
    position     BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subscriber   TEXT COLLATE "C" NOT NULL,
    event_id     TEXT COLLATE "C" NOT NULL,
    aggregate_id TEXT COLLATE "C" NOT NULL,
    sequence     BIGINT NOT NULL,
    -- A `shop.events.v1.Event`.
    event        BYTEA NOT NULL,
    -- Microseconds since 1970.
    create_time  BIGINT NOT NULL,
    attempts     BIGINT NOT NULL DEFAULT 0,
    -- Not tried before; microseconds since 1970.
    due_time     BIGINT NOT NULL DEFAULT 0,
    -- Why it was set aside; NULL while it waits.
    parked       TEXT,
    UNIQUE (event_id, subscriber)
);

CREATE INDEX outbox_waiting ON outbox (subscriber, position) WHERE parked IS NULL;
CREATE INDEX outbox_parked ON outbox (position) WHERE parked IS NOT NULL;
-- What failed before and may hold back its aggregate; few.
CREATE INDEX outbox_held ON outbox (subscriber, aggregate_id, position) WHERE due_time > 0 AND parked IS NULL;
