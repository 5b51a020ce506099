//! Payment methods.

use service_kit::value::InvalidValue;

/// A token of the payment provider: 1 to 128 characters of `a-z`, `0-9`, `_`
/// and `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaymentMethod(String);

impl PaymentMethod {
    /// Reads a token.
    ///
    /// # Errors
    /// When it is empty, too long or has other characters.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        if matches!(text.len(), 1..=128) && text.bytes().all(known) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidValue("must be 1 to 128 characters of a-z, 0-9, _ and -".into()))
        }
    }

    /// The token as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payment_method_is_a_short_token() {
        for good in ["pm_card_visa", "a", &"-".repeat(128)] {
            assert_eq!(PaymentMethod::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "PM", "4111 1111", "ä", &"a".repeat(129)] {
            assert!(PaymentMethod::parse(bad).is_err(), "{bad:?}");
        }
    }
}
