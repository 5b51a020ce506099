CREATE TABLE users (
    user_id      TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    display_name TEXT NOT NULL,
    -- `customer`, `staff`, `admin`, separated by commas.
    roles        TEXT NOT NULL,
    -- A PHC string.
    password     TEXT NOT NULL,
    -- Microseconds since 1970.
    create_time  BIGINT NOT NULL,
    update_time  BIGINT NOT NULL,
    -- Raised by every change; the etag.
    version      BIGINT NOT NULL CHECK (version > 0)
);

-- Whose an address is. A table of its own, so that an address that is taken is
-- a count of rows and not an error.
CREATE TABLE emails (
    -- In lower case.
    email   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    user_id TEXT COLLATE "C" NOT NULL UNIQUE REFERENCES users (user_id)
);

-- Accounts that are gone: nothing about them is kept any more.
CREATE TABLE deleted_users (
    user_id     TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    delete_time BIGINT NOT NULL
);

-- One row for each login; its refresh tokens follow one another in it.
CREATE TABLE sessions (
    session_id  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    user_id     TEXT COLLATE "C" NOT NULL REFERENCES users (user_id),
    -- SHA-256 of the one token that is not used up.
    token       BYTEA NOT NULL,
    create_time BIGINT NOT NULL,
    -- When that token expires.
    expire_time BIGINT NOT NULL
);

CREATE INDEX sessions_by_user ON sessions (user_id, expire_time);
CREATE INDEX sessions_by_expiry ON sessions (expire_time);

-- Logins that failed, of one account or from one address.
CREATE TABLE login_failures (
    -- What they have in common; an email address only as its SHA-256.
    subject   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    failures  BIGINT NOT NULL CHECK (failures > 0),
    last_time BIGINT NOT NULL
);

CREATE INDEX login_failures_by_time ON login_failures (last_time);

-- Keys that access tokens are signed with, one after the other.
CREATE TABLE signing_keys (
    number      BIGINT NOT NULL PRIMARY KEY,
    kid         TEXT COLLATE "C" NOT NULL UNIQUE,
    -- Of Ed25519. Secret: who can read this database can make tokens.
    seed        BYTEA NOT NULL,
    create_time BIGINT NOT NULL,
    -- Signs from `sign_from` until `sign_until`.
    sign_from   BIGINT NOT NULL,
    sign_until  BIGINT NOT NULL
);

-- What customers were told, in the order in which they were told it.
CREATE TABLE notifications (
    customer_id TEXT COLLATE "C" NOT NULL,
    position    BIGINT NOT NULL,
    event_id    TEXT COLLATE "C" NOT NULL,
    order_id    TEXT COLLATE "C" NOT NULL,
    order_etag  TEXT NOT NULL,
    text        TEXT NOT NULL,
    create_time BIGINT NOT NULL,
    PRIMARY KEY (customer_id, position)
);

-- The position of each customer's last notification.
CREATE TABLE notified (
    customer_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    position    BIGINT NOT NULL
);
