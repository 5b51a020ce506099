CREATE TABLE orders (
    -- A version 7 UUID: sorted by it, orders are sorted by time.
    order_id     TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    customer_id  TEXT COLLATE "C" NOT NULL,
    -- What the order was asked for with; one request makes one order.
    request_id   TEXT COLLATE "C" NOT NULL UNIQUE,
    request_etag TEXT NOT NULL,
    -- The version of the cart that was ordered.
    cart_etag    TEXT NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('confirmed', 'cancelled')),
    -- In minor units of the currency, as are the prices of the lines.
    total        BIGINT NOT NULL CHECK (total >= 0),
    currency     TEXT NOT NULL,
    -- Microseconds since 1970.
    create_time  BIGINT NOT NULL,
    update_time  BIGINT NOT NULL,
    -- Raised by every change; the etag.
    version      BIGINT NOT NULL CHECK (version > 0)
);

CREATE INDEX orders_by_customer ON orders (customer_id, order_id);

CREATE TABLE order_lines (
    order_id   TEXT COLLATE "C" NOT NULL REFERENCES orders (order_id),
    position   BIGINT NOT NULL,
    product_id TEXT NOT NULL,
    title      TEXT NOT NULL,
    unit_price BIGINT NOT NULL CHECK (unit_price >= 0),
    quantity   BIGINT NOT NULL CHECK (quantity BETWEEN 1 AND 999),
    PRIMARY KEY (order_id, position)
);
