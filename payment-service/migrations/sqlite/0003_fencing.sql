-- expand
-- The highest attempt that has decided what became of the key; 0 where attempts
-- have no numbers.
ALTER TABLE charges ADD COLUMN fencing_token INTEGER NOT NULL DEFAULT 0;
