-- Orders get the states of their whole life, and what their saga needs to go on
-- after a crash. A CHECK cannot be changed in place, so the tables are made
-- anew; the lines before the orders that they refer to.
CREATE TABLE orders_2 (
    -- A version 7 UUID: sorted by it, orders are sorted by time.
    order_id        TEXT NOT NULL PRIMARY KEY,
    customer_id     TEXT NOT NULL,
    -- What an order of the first version was asked for with; NULL in all later
    -- ones, whose requests stand in the table `idempotency`.
    request_id      TEXT UNIQUE,
    request_etag    TEXT NOT NULL DEFAULT '',
    -- The version of the cart that was ordered.
    cart_etag       TEXT NOT NULL,
    -- 1 while that cart is still to be emptied.
    cart_full       INTEGER NOT NULL DEFAULT 0,
    state           TEXT NOT NULL CHECK (state IN ('pending', 'confirmed', 'paying', 'paid', 'shipping',
                        'shipped', 'completed', 'cancelling', 'cancelled')),
    -- 1 when the reservation of its goods is committed.
    sold            INTEGER NOT NULL DEFAULT 1,
    -- Empty where there is none, as are the next three.
    cancel_reason   TEXT NOT NULL DEFAULT '' CHECK (cancel_reason IN ('', 'requested', 'out_of_stock',
                        'shipping_refused')),
    payment_method  TEXT NOT NULL DEFAULT '',
    charge_id       TEXT NOT NULL DEFAULT '',
    tracking_number TEXT NOT NULL DEFAULT '',
    -- In minor units of the currency, as are the prices of the lines.
    total           INTEGER NOT NULL CHECK (total >= 0),
    currency        TEXT NOT NULL,
    -- Microseconds since 1970, as are all times.
    create_time     INTEGER NOT NULL,
    update_time     INTEGER NOT NULL,
    -- Raised by every change; the etag.
    version         INTEGER NOT NULL CHECK (version > 0),
    -- 1 while something is left to do.
    unsettled       INTEGER NOT NULL DEFAULT 0,
    -- Raised by whoever takes the order on; what was written with an older
    -- claim is lost.
    claim           INTEGER NOT NULL DEFAULT 0,
    -- Until then nobody else takes it on, unless to do something else.
    lease_time      INTEGER NOT NULL DEFAULT 0,
    -- From then on it is taken on by whoever looks for work.
    due_time        INTEGER NOT NULL DEFAULT 0,
    -- How often in a row its present step has failed.
    attempts        INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

INSERT INTO orders_2 (order_id, customer_id, request_id, request_etag, cart_etag, cart_full, state, sold,
    cancel_reason, payment_method, charge_id, tracking_number, total, currency, create_time, update_time,
    version, unsettled, claim, lease_time, due_time, attempts)
SELECT order_id, customer_id, request_id, request_etag, cart_etag, 0, state, 1,
    CASE state WHEN 'cancelled' THEN 'requested' ELSE '' END, '', '', '', total, currency, create_time,
    update_time, version, 0, 0, 0, 0, 0
FROM orders;

CREATE TABLE order_lines_2 (
    order_id   TEXT NOT NULL REFERENCES orders_2 (order_id),
    position   INTEGER NOT NULL,
    product_id TEXT NOT NULL,
    title      TEXT NOT NULL,
    unit_price INTEGER NOT NULL CHECK (unit_price >= 0),
    quantity   INTEGER NOT NULL CHECK (quantity BETWEEN 1 AND 999),
    PRIMARY KEY (order_id, position)
) STRICT, WITHOUT ROWID;

INSERT INTO order_lines_2 (order_id, position, product_id, title, unit_price, quantity)
SELECT order_id, position, product_id, title, unit_price, quantity FROM order_lines;

DROP TABLE order_lines;
DROP TABLE orders;
ALTER TABLE orders_2 RENAME TO orders;
ALTER TABLE order_lines_2 RENAME TO order_lines;

CREATE INDEX orders_by_customer ON orders (customer_id, order_id);
CREATE INDEX orders_unsettled ON orders (due_time) WHERE unsettled = 1;
