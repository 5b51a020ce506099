-- Accounts whose tokens end before they expire: they are gone, or have lost a
-- role. A row is of use for as long as a token may hold.
CREATE TABLE revocations (
    user_id     TEXT NOT NULL PRIMARY KEY,
    -- Tokens issued before this second since 1970 are not accepted.
    not_before  INTEGER NOT NULL,
    -- Microseconds since 1970.
    revoke_time INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX revocations_by_time ON revocations (revoke_time);
