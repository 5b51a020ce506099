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

-- Events that came by a stream and wait to be taken, as rows of an outbox do.
CREATE TABLE arrivals (
    position     BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subscriber   TEXT COLLATE "C" NOT NULL,
    event_id     TEXT COLLATE "C" NOT NULL,
    aggregate_id TEXT COLLATE "C" NOT NULL,
    sequence     BIGINT NOT NULL,
    event        BYTEA NOT NULL,
    create_time  BIGINT NOT NULL,
    attempts     BIGINT NOT NULL DEFAULT 0,
    due_time     BIGINT NOT NULL DEFAULT 0,
    parked       TEXT,
    UNIQUE (event_id, subscriber)
);

CREATE INDEX arrivals_waiting ON arrivals (subscriber, position) WHERE parked IS NULL;
CREATE INDEX arrivals_parked ON arrivals (position) WHERE parked IS NOT NULL;
CREATE INDEX arrivals_held ON arrivals (subscriber, aggregate_id, position) WHERE due_time > 0 AND parked IS NULL;

-- Up to where each stream was written down.
CREATE TABLE stream_positions (
    stream   TEXT COLLATE "C" PRIMARY KEY,
    -- Which one of that name: when it was made.
    made     TEXT COLLATE "C" NOT NULL,
    sequence BIGINT NOT NULL
);
