-- expand
-- When a reservation was released or ran out, in microseconds since 1970; some
-- time after that it is forgotten. NULL while it is held or sold, and of what a
-- replica of the version before has ended since.
ALTER TABLE reservations ADD COLUMN end_time BIGINT;

UPDATE reservations SET end_time = CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)
WHERE state IN ('released', 'expired');

CREATE INDEX reservations_ended ON reservations (end_time) WHERE end_time IS NOT NULL;
