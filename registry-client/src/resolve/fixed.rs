//! A set that never changes.
