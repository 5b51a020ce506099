CREATE TABLE users (
    user_id      TEXT NOT NULL PRIMARY KEY,
    display_name TEXT NOT NULL,
    -- `customer`, `staff`, `admin`, separated by commas.
    roles        TEXT NOT NULL,
    -- A PHC string.
    password     TEXT NOT NULL,
    -- Microseconds since 1970.
    create_time  INTEGER NOT NULL,
    update_time  INTEGER NOT NULL,
    -- Raised by every change; the etag.
    version      INTEGER NOT NULL CHECK (version > 0)
) STRICT, WITHOUT ROWID;

-- Whose an address is. A table of its own, so that an address that is taken is
-- a count of rows and not an error.
CREATE TABLE emails (
    -- In lower case.
    email   TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL UNIQUE REFERENCES users (user_id)
) STRICT, WITHOUT ROWID;

-- Accounts that are gone: nothing about them is kept any more.
CREATE TABLE deleted_users (
    user_id     TEXT NOT NULL PRIMARY KEY,
    delete_time INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row for each login; its refresh tokens follow one another in it.
CREATE TABLE sessions (
    session_id  TEXT NOT NULL PRIMARY KEY,
    user_id     TEXT NOT NULL REFERENCES users (user_id),
    -- SHA-256 of the one token that is not used up.
    token       BLOB NOT NULL,
    create_time INTEGER NOT NULL,
    -- When that token expires.
    expire_time INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX sessions_by_user ON sessions (user_id, expire_time);
CREATE INDEX sessions_by_expiry ON sessions (expire_time);

-- Logins that failed, of one account or from one address.
CREATE TABLE login_failures (
    -- What they have in common; an email address only as its SHA-256.
    subject   TEXT NOT NULL PRIMARY KEY,
    failures  INTEGER NOT NULL CHECK (failures > 0),
    last_time INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX login_failures_by_time ON login_failures (last_time);

-- Keys that access tokens are signed with, one after the other.
CREATE TABLE signing_keys (
    number      INTEGER NOT NULL PRIMARY KEY,
    kid         TEXT NOT NULL UNIQUE,
    -- Of Ed25519. Secret: who can read this database can make tokens.
    seed        BLOB NOT NULL,
    create_time INTEGER NOT NULL,
    -- Signs from `sign_from` until `sign_until`.
    sign_from   INTEGER NOT NULL,
    sign_until  INTEGER NOT NULL
) STRICT;

-- What customers were told, in the order in which they were told it.
CREATE TABLE notifications (
    customer_id TEXT NOT NULL,
    position    INTEGER NOT NULL,
    event_id    TEXT NOT NULL,
    order_id    TEXT NOT NULL,
    order_etag  TEXT NOT NULL,
    text        TEXT NOT NULL,
    create_time INTEGER NOT NULL,
    PRIMARY KEY (customer_id, position)
) STRICT, WITHOUT ROWID;

-- The position of each customer's last notification.
CREATE TABLE notified (
    customer_id TEXT NOT NULL PRIMARY KEY,
    position    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
