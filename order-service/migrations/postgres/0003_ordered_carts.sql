-- expand
-- Which order was made of which version of a cart: at most one, unless that was
-- cancelled for want of goods. A table of its own, because replicas of the
-- version before read all columns of `orders`, and PostgreSQL fails a prepared
-- statement whose columns change.
CREATE TABLE ordered_carts (
    customer_id TEXT COLLATE "C" NOT NULL,
    cart_etag   TEXT NOT NULL,
    order_id    TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (customer_id, cart_etag)
);

-- Those whose cart may still be as it was ordered.
INSERT INTO ordered_carts (customer_id, cart_etag, order_id)
SELECT customer_id, cart_etag, MAX(order_id) FROM orders WHERE unsettled = 1 AND cart_full = 1
GROUP BY customer_id, cart_etag;
