-- How many pieces of a product there are. A product without a row has none.
CREATE TABLE stock (
    product_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    available  BIGINT NOT NULL CHECK (available >= 0),
    reserved   BIGINT NOT NULL CHECK (reserved >= 0),
    sold       BIGINT NOT NULL CHECK (sold >= 0),
    -- What it was set to last.
    counted    BIGINT NOT NULL CHECK (counted >= 0),
    -- How often it was set since the product is there; the etag.
    version    BIGINT NOT NULL CHECK (version >= 0),
    -- Of a product that was deleted the row stays, since pieces of it may come
    -- back: the version that this was. 0 while the product is there.
    gone       BIGINT NOT NULL DEFAULT 0 CHECK (gone >= 0)
);

CREATE TABLE reservations (
    -- A UUID that the caller chose.
    reservation_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    state          TEXT NOT NULL CHECK (state IN ('held', 'committed', 'released', 'expired')),
    -- What it is of, by SKU: `mug*1 tea*3`. Nothing when it was released
    -- before it was made.
    items          TEXT NOT NULL,
    -- When the lease runs out, in microseconds since 1970; 0 unless it is held.
    expire_time    BIGINT NOT NULL,
    CHECK ((state = 'held') = (expire_time > 0)),
    CHECK (state = 'released' OR items <> '')
);

-- Which lease runs out next.
CREATE INDEX reservations_held ON reservations (expire_time) WHERE state = 'held';
