-- Who does what only one replica may do at a time. A row stays, so that its
-- token grows for ever.
CREATE TABLE leases (
    name  TEXT COLLATE "C" PRIMARY KEY,
    owner TEXT COLLATE "C" NOT NULL,
    -- Microseconds since 1970, by the database's clock.
    until BIGINT NOT NULL,
    token BIGINT NOT NULL
);
