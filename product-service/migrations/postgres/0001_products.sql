CREATE TABLE products (
    -- Sorted by byte, as SQLite does it and whatever the locale.
    product_id  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    title       TEXT NOT NULL,
    description TEXT NOT NULL,
    -- In minor units of the currency.
    price       BIGINT NOT NULL CHECK (price > 0),
    currency    TEXT NOT NULL,
    version     BIGINT NOT NULL CHECK (version > 0)
);
