//! What charges are known by.

use std::fmt;

use service_kit::{timestamp::Timestamp, value::InvalidValue};
use uuid::{ContextV7, Uuid};

const MICROS: i64 = 1_000_000;

/// The id of a charge: a version 7 UUID of the time at which its key was first
/// seen, so that sorting by it sorts by that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChargeId(Uuid);

impl ChargeId {
    /// A new one for a key that was first seen at `created`.
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

    /// Reads a charge id.
    ///
    /// # Errors
    /// When it is not a UUID.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        parse_uuid(text).map(Self)
    }
}

impl fmt::Display for ChargeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// What tells one charge from another: a UUID that the caller chose, the same
/// in every repetition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(Uuid);

impl Key {
    /// Reads a key; how a UUID is spelt makes no difference.
    ///
    /// # Errors
    /// When it is not a UUID.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        parse_uuid(text).map(Self)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

fn parse_uuid(text: &str) -> Result<Uuid, InvalidValue> {
    let uuid = Uuid::try_parse(text).ok().filter(|uuid| !uuid.is_nil());
    uuid.ok_or_else(|| InvalidValue("must be a UUID that is not all zeroes".into()))
}
