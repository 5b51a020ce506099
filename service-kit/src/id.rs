//! Ids that are UUIDs.

use std::{cmp::Ordering, fmt, hash, marker::PhantomData};

use uuid::{ContextV7, Uuid};

use crate::{timestamp::Timestamp, value::InvalidValue};

const MICROS_PER_SECOND: i64 = 1_000_000;

/// A UUID that identifies a `K`, a marker type. A service names each of its ids:
///
/// ```
/// use service_kit::id::Id;
///
/// /// The marker of order ids.
/// pub enum OrderKind {}
/// /// The id of an order.
/// pub type OrderId = Id<OrderKind>;
///
/// let id = OrderId::parse("018F3C5E-7B1A-7CC0-8F00-0123456789AB")?;
/// assert_eq!(id.to_string(), "018f3c5e-7b1a-7cc0-8f00-0123456789ab");
/// # Ok::<_, service_kit::value::InvalidValue>(())
/// ```
pub struct Id<K> {
    uuid: Uuid,
    kind: PhantomData<fn() -> K>,
}

impl<K> Id<K> {
    /// A new version 7 UUID of the time `created`, so that ids sort by time. It is
    /// greater than all of earlier microseconds, on whichever replica.
    #[must_use]
    pub fn new(created: Timestamp) -> Self {
        // A time before 1970 counts as 1970.
        let seconds = created.micros().div_euclid(MICROS_PER_SECOND).try_into().unwrap_or_default();
        let nanos = (created.micros().rem_euclid(MICROS_PER_SECOND) * 1_000).try_into().unwrap_or_default();
        // Twelve more bits of time instead of a counter, which replicas could not
        // share.
        let context = ContextV7::new().with_additional_precision();
        let time = uuid::Timestamp::from_unix(context, seconds, nanos);
        Self { uuid: Uuid::new_v7(time), kind: PhantomData }
    }

    /// Parses an id in any spelling of a UUID.
    ///
    /// # Errors
    /// When it is not a UUID, or all zeroes.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let uuid = Uuid::try_parse(text).ok().filter(|uuid| !uuid.is_nil());
        let uuid = uuid.ok_or_else(|| InvalidValue("must be a UUID that is not all zeroes".into()))?;
        Ok(Self { uuid, kind: PhantomData })
    }
}

impl<K> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uuid.hyphenated().fmt(f)
    }
}

impl<K> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Id<K> {}

impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.uuid == other.uuid
    }
}

impl<K> Eq for Id<K> {}

impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.uuid.cmp(&other.uuid)
    }
}

impl<K> hash::Hash for Id<K> {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.uuid.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type TestId = Id<()>;

    #[test]
    fn an_id_is_a_uuid_in_any_spelling() {
        let id = "018f3c5e-7b1a-7cc0-8f00-0123456789ab";
        assert_eq!(TestId::parse(&id.to_uppercase()).unwrap().to_string(), id);
        assert_eq!(TestId::parse(&id.replace('-', "")).unwrap().to_string(), id);
        for bad in ["", "1", "018f3c5e-7b1a-7cc0-8f00-0123456789a", "00000000-0000-0000-0000-000000000000"] {
            assert!(TestId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_sort_by_their_microseconds_and_differ_within_one() {
        let now = Timestamp::now().micros();
        let ids: Vec<_> = (0..3_000).map(|later| TestId::new(Timestamp::of_micros(now + later))).collect();
        assert!(ids.is_sorted());
        assert_ne!(TestId::new(Timestamp::of_micros(now)), ids[0]);
        assert_eq!(ids[0].uuid.get_version_num(), 7);
    }
}
