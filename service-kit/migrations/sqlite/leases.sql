-- Who does what only one replica may do at a time. A row stays, so that its
-- token grows for ever.
CREATE TABLE leases (
    name  TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    -- Microseconds since 1970, by the database's clock.
    until INTEGER NOT NULL,
    token INTEGER NOT NULL
) STRICT;
