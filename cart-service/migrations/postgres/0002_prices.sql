-- What one piece cost, in minor units of the line's currency, when the
-- customer last added to the line or set its quantity; NULL in lines of before
-- this was kept.
ALTER TABLE cart_lines ADD COLUMN price BIGINT CHECK (price > 0);

-- How often a product was heard to change: carts that hold it look different
-- then, although they have not changed.
CREATE TABLE product_news (
    product_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    changes    BIGINT NOT NULL
);
