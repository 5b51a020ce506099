-- expand
-- Which notifications are old enough to be forgotten.
CREATE INDEX notifications_by_time ON notifications (create_time);
