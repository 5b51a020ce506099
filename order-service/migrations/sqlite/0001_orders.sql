CREATE TABLE orders (
    -- A version 7 UUID: sorted by it, orders are sorted by time.
    order_id     TEXT NOT NULL PRIMARY KEY,
    customer_id  TEXT NOT NULL,
    -- What the order was asked for with; one request makes one order.
    request_id   TEXT NOT NULL UNIQUE,
    request_etag TEXT NOT NULL,
    -- The version of the cart that was ordered.
    cart_etag    TEXT NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('confirmed', 'cancelled')),
    -- In minor units of the currency, as are the prices of the lines.
    total        INTEGER NOT NULL CHECK (total >= 0),
    currency     TEXT NOT NULL,
    -- Microseconds since 1970.
    create_time  INTEGER NOT NULL,
    update_time  INTEGER NOT NULL,
    -- Raised by every change; the etag.
    version      INTEGER NOT NULL CHECK (version > 0)
) STRICT, WITHOUT ROWID;

CREATE INDEX orders_by_customer ON orders (customer_id, order_id);

CREATE TABLE order_lines (
    order_id   TEXT NOT NULL REFERENCES orders (order_id),
    position   INTEGER NOT NULL,
    product_id TEXT NOT NULL,
    title      TEXT NOT NULL,
    unit_price INTEGER NOT NULL CHECK (unit_price >= 0),
    quantity   INTEGER NOT NULL CHECK (quantity BETWEEN 1 AND 999),
    PRIMARY KEY (order_id, position)
) STRICT, WITHOUT ROWID;
