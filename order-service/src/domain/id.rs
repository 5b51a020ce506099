//! What orders and requests are known by.

use std::fmt;

use service_kit::{timestamp::Timestamp, value::InvalidValue};
use uuid::{ContextV7, Uuid};

const MICROS: i64 = 1_000_000;

/// The id of an order: a version 7 UUID of the time at which it was made, so
/// that sorting by it sorts by that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OrderId(Uuid);

impl OrderId {
    /// A new one for an order made at `created`; greater than all of earlier
    /// microseconds, whichever replica made them.
    #[must_use]
    pub fn new(created: Timestamp) -> Self {
        // A clock that shows a time before 1970 stands at its beginning.
        let seconds = created.micros().div_euclid(MICROS).try_into().unwrap_or_default();
        let nanos = (created.micros().rem_euclid(MICROS) * 1_000).try_into().unwrap_or_default();
        // Twelve more bits of time in place of a counter, which replicas
        // could not share.
        let context = ContextV7::new().with_additional_precision();
        Self(Uuid::new_v7(uuid::Timestamp::from_unix(context, seconds, nanos)))
    }

    /// Reads an order id.
    ///
    /// # Errors
    /// When it is not a UUID.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        parse_uuid(text).map(Self)
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// What tells one request for an order from another: a UUID that the caller
/// chose, the same in every repetition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(Uuid);

impl RequestId {
    /// Reads a request id; how a UUID is spelt makes no difference.
    ///
    /// # Errors
    /// When it is not a UUID.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        parse_uuid(text).map(Self)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

fn parse_uuid(text: &str) -> Result<Uuid, InvalidValue> {
    let uuid = Uuid::try_parse(text).ok().filter(|uuid| !uuid.is_nil());
    uuid.ok_or_else(|| InvalidValue("must be a UUID that is not all zeroes".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuids_however_they_are_spelt() {
        let id = "018f3c5e-7b1a-7cc0-8f00-0123456789ab";
        assert_eq!(RequestId::parse(&id.to_uppercase()).unwrap().to_string(), id);
        assert_eq!(RequestId::parse(&id.replace('-', "")).unwrap().to_string(), id);
        for bad in ["", "1", "018f3c5e-7b1a-7cc0-8f00-0123456789a", "00000000-0000-0000-0000-000000000000"] {
            assert!(RequestId::parse(bad).is_err() && OrderId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_sort_as_their_microseconds_do_and_differ_within_one() {
        let now = Timestamp::now().micros();
        let ids: Vec<_> = (0..3_000).map(|later| OrderId::new(Timestamp::of_micros(now + later))).collect();
        assert!(ids.is_sorted());
        assert_ne!(OrderId::new(Timestamp::of_micros(now)), ids[0]);
        assert_eq!(ids[0].0.get_version_num(), 7);
    }
}
