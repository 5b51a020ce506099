CREATE TABLE products (
    product_id  TEXT NOT NULL PRIMARY KEY,
    title       TEXT NOT NULL,
    description TEXT NOT NULL,
    -- In minor units of the currency.
    price       INTEGER NOT NULL CHECK (price > 0),
    currency    TEXT NOT NULL,
    version     INTEGER NOT NULL CHECK (version > 0)
) STRICT, WITHOUT ROWID;
