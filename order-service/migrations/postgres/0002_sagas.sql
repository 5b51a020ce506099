-- Orders get the states of their whole life, and what their saga needs to go on
-- after a crash.
ALTER TABLE orders DROP CONSTRAINT orders_state_check;
ALTER TABLE orders ADD CONSTRAINT orders_state_check CHECK (state IN ('pending', 'confirmed', 'paying', 'paid',
    'shipping', 'shipped', 'completed', 'cancelling', 'cancelled'));

-- What an order of the first version was asked for with; NULL in all later
-- ones, whose requests stand in the table `idempotency`.
ALTER TABLE orders ALTER COLUMN request_id DROP NOT NULL;
ALTER TABLE orders ALTER COLUMN request_etag SET DEFAULT '';

ALTER TABLE orders
    -- 1 while the cart that was ordered is still to be emptied.
    ADD COLUMN cart_full       BIGINT NOT NULL DEFAULT 0,
    -- 1 when the reservation of its goods is committed.
    ADD COLUMN sold            BIGINT NOT NULL DEFAULT 1,
    -- Empty where there is none, as are the next three.
    ADD COLUMN cancel_reason   TEXT NOT NULL DEFAULT ''
        CHECK (cancel_reason IN ('', 'requested', 'out_of_stock', 'shipping_refused')),
    ADD COLUMN payment_method  TEXT NOT NULL DEFAULT '',
    ADD COLUMN charge_id       TEXT NOT NULL DEFAULT '',
    ADD COLUMN tracking_number TEXT NOT NULL DEFAULT '',
    -- 1 while something is left to do.
    ADD COLUMN unsettled       BIGINT NOT NULL DEFAULT 0,
    -- Raised by whoever takes the order on; what was written with an older
    -- claim is lost.
    ADD COLUMN claim           BIGINT NOT NULL DEFAULT 0,
    -- Until then nobody else takes it on, unless to do something else.
    ADD COLUMN lease_time      BIGINT NOT NULL DEFAULT 0,
    -- From then on it is taken on by whoever looks for work.
    ADD COLUMN due_time        BIGINT NOT NULL DEFAULT 0,
    -- How often in a row its present step has failed.
    ADD COLUMN attempts        BIGINT NOT NULL DEFAULT 0;

UPDATE orders SET cancel_reason = 'requested' WHERE state = 'cancelled';

CREATE INDEX orders_unsettled ON orders (due_time) WHERE unsettled = 1;
