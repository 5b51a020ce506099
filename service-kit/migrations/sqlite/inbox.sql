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

-- Events that came by a stream and wait to be taken, as rows of an outbox do.
CREATE TABLE arrivals (
    position     INTEGER PRIMARY KEY AUTOINCREMENT,
    subscriber   TEXT NOT NULL,
    event_id     TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    sequence     INTEGER NOT NULL,
    event        BLOB NOT NULL,
    create_time  INTEGER NOT NULL,
    attempts     INTEGER NOT NULL DEFAULT 0,
    due_time     INTEGER NOT NULL DEFAULT 0,
    parked       TEXT,
    UNIQUE (event_id, subscriber)
) STRICT;

CREATE INDEX arrivals_waiting ON arrivals (subscriber, position) WHERE parked IS NULL;
CREATE INDEX arrivals_parked ON arrivals (position) WHERE parked IS NOT NULL;
CREATE INDEX arrivals_held ON arrivals (subscriber, aggregate_id, position) WHERE due_time > 0 AND parked IS NULL;

-- Up to where each stream was written down.
CREATE TABLE stream_positions (
    stream   TEXT PRIMARY KEY,
    -- Which one of that name: when it was made.
    made     TEXT NOT NULL,
    sequence INTEGER NOT NULL
) STRICT;
