-- expand
-- When a reservation was released or ran out, in microseconds since 1970; some
-- time after that it is forgotten. NULL while it is held or sold, and of what a
-- replica of the version before has ended since.
ALTER TABLE reservations ADD COLUMN end_time INTEGER;

UPDATE reservations SET end_time = CAST(unixepoch('subsec') * 1000000 AS INTEGER)
WHERE state IN ('released', 'expired');

CREATE INDEX reservations_ended ON reservations (end_time) WHERE end_time IS NOT NULL;
