//! Values that several services use, valid by construction.

use std::{fmt, num::NonZeroU16};

/// The reason why a text or number is invalid: what it must be. The message never
/// shows the text, which may be long or secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(pub String);

/// The id of a customer: an opaque text of 1 to 128 characters without control
/// characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CustomerId(String);

impl CustomerId {
    /// Reads a customer id.
    ///
    /// # Errors
    /// When it is empty, too long or has control characters.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        line(text, 128).map(Self)
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The id of a product: 1 to 64 characters of `a-z`, `0-9` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sku(String);

impl Sku {
    /// Reads a SKU.
    ///
    /// # Errors
    /// When it is empty, too long or has other characters.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let is_valid = matches!(text.len(), 1..=64)
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if is_valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidValue("must be 1 to 64 characters of a-z, 0-9 and -".into()))
        }
    }

    /// The SKU as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Sku {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of pieces of a product: 1 to 999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Quantity(NonZeroU16);

impl Quantity {
    /// The most pieces of one product in a cart.
    pub const MAX: u16 = 999;

    /// Reads a quantity.
    ///
    /// # Errors
    /// When it is not 1 to 999.
    pub fn parse(number: impl TryInto<u16>) -> Result<Self, InvalidValue> {
        let number = number.try_into().ok().filter(|number| *number <= Self::MAX);
        number
            .and_then(NonZeroU16::new)
            .map(Self)
            .ok_or_else(|| InvalidValue(format!("must be 1 to {}", Self::MAX)))
    }

    /// The quantity as a number, 1 to 999.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0.get()
    }

    /// The sum of both; `None` when it exceeds 999.
    #[must_use]
    pub fn plus(self, more: Self) -> Option<Self> {
        Self::parse(self.get() + more.get()).ok()
    }
}

/// The version of something that changes, as callers see it. Every change
/// raises it by one; 0 is what never changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Etag(u64);

impl Etag {
    /// The etag of a version number; negative ones do not occur and count as 0.
    #[must_use]
    pub fn of(version: i64) -> Self {
        Self(version.try_into().unwrap_or_default())
    }

    /// Reads an etag that may be absent, that is, empty.
    ///
    /// # Errors
    /// When the text cannot have come from [`Etag`]'s `Display`.
    pub fn parse(text: &str) -> Result<Option<Self>, InvalidValue> {
        if text.is_empty() {
            return Ok(None);
        }
        let number = text.parse().ok().map(Self);
        match number {
            Some(etag) if text.len() <= 19 && etag.to_string() == text => Ok(Some(etag)),
            _ => Err(InvalidValue("must be an etag that this service returned, or empty".into())),
        }
    }

    /// The version number.
    #[must_use]
    pub fn version(self) -> i64 {
        self.0.try_into().unwrap_or(i64::MAX)
    }

    /// The version after one more change.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// True when this is the version directly after `other`.
    #[must_use]
    pub fn follows(self, other: Self) -> bool {
        self == other.next()
    }
}

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Parses a text of one line: 1 to `max` characters without control characters.
///
/// # Errors
/// When it is invalid.
pub fn line(text: &str, max: usize) -> Result<String, InvalidValue> {
    // The bytes bound the work of counting characters.
    let fits = text.len() <= max * 4 && text.chars().count() <= max;
    if text.is_empty() || !fits || text.chars().any(char::is_control) {
        return Err(InvalidValue(format!("must be 1 to {max} characters without control characters")));
    }
    Ok(text.to_owned())
}

/// Parses a text of any number of lines: up to `max` characters without control
/// characters other than line breaks and tabs.
///
/// # Errors
/// When it is invalid.
pub fn prose(text: &str, max: usize) -> Result<String, InvalidValue> {
    let fits = text.len() <= max * 4 && text.chars().count() <= max;
    if !fits || text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
        return Err(InvalidValue(format!(
            "must be at most {max} characters without control characters other than line breaks and tabs"
        )));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_customer_id_is_1_to_128_characters_of_any_script() {
        for good in ["a", "customer 1", "ä/ö?", &"ü".repeat(128), "🛒"] {
            assert_eq!(CustomerId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "a\nb", "nul\0", &"a".repeat(129), &"🛒".repeat(129)] {
            assert!(CustomerId::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_sku_holds_only_what_urls_and_labels_can_hold() {
        for good in ["a", "espresso-beans-1kg", "0", &"a".repeat(64)] {
            assert_eq!(Sku::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "A", "a b", "a_b", "ä", "a/b", &"a".repeat(65)] {
            assert!(Sku::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_quantity_is_1_to_999() {
        assert_eq!([1, 999].map(|n| Quantity::parse(n).unwrap().get()), [1, 999]);
        for bad in [0, -1, 1_000, 65_536, 65_537, i32::MAX, i32::MIN] {
            assert!(Quantity::parse(bad).is_err(), "{bad}");
        }
        let some = |n| Quantity::parse(n).unwrap();
        assert_eq!(some(998).plus(some(1)), Some(some(999)));
        assert_eq!(some(999).plus(some(1)), None);
    }

    #[test]
    fn an_etag_reads_what_it_wrote_and_nothing_else() {
        assert_eq!(Etag::parse(""), Ok(None));
        assert_eq!(Etag::parse(&Etag::of(7).to_string()), Ok(Some(Etag::of(7))));
        for bad in ["07", "+7", "-1", " 7", "x", "99999999999999999999", "\"7\""] {
            assert!(Etag::parse(bad).is_err(), "{bad}");
        }
        assert!(Etag::of(8).follows(Etag::of(7)) && !Etag::of(7).follows(Etag::of(7)));
    }

    #[test]
    fn prose_may_have_lines() {
        assert!(prose("", 10).is_ok() && prose("a\n\tb", 10).is_ok());
        assert!(prose("a\0", 10).is_err() && prose(&"a".repeat(11), 10).is_err());
    }
}
