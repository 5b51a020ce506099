CREATE TABLE carts (
    customer_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    -- Raised by every change; the etag.
    version     BIGINT NOT NULL CHECK (version >= 0),
    -- Microseconds since 1970.
    update_time BIGINT NOT NULL
);

CREATE TABLE cart_lines (
    customer_id TEXT COLLATE "C" NOT NULL REFERENCES carts (customer_id),
    product_id  TEXT COLLATE "C" NOT NULL,
    quantity    BIGINT NOT NULL CHECK (quantity BETWEEN 1 AND 999),
    -- Of the product when it was added; titles and prices are not kept.
    currency    TEXT NOT NULL,
    -- The version of the cart that added the line, which orders the lines.
    added       BIGINT NOT NULL,
    PRIMARY KEY (customer_id, product_id)
);
