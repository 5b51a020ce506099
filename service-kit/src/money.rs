//! Exact amounts of money: whole minor units of one currency.

use std::fmt;

use mesh_proto::google::r#type::Money as Wire;

use crate::{currency::Currency, value::Quantity};

const NANOS_PER_UNIT: i64 = 1_000_000_000;

/// An amount of money that is not negative, in whole minor units (cents) of
/// its currency.
///
/// Arithmetic is checked: a sum that does not fit, or that would mix
/// currencies, is an error and never a wrong amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Money {
    minor: i64,
    currency: Currency,
}

/// The reason why something is no amount of money, or two amounts have no sum.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// The field was not set.
    #[error("an amount is required")]
    Missing,
    /// No such currency.
    #[error(transparent)]
    Currency(#[from] crate::currency::UnknownCurrency),
    /// Below zero, or units and nanos that contradict each other.
    #[error("the amount must not be negative")]
    Negative,
    /// Nanos beyond 999,999,999.
    #[error("nanos must be 0 to 999,999,999")]
    Nanos,
    /// A fraction of a minor unit.
    #[error("{currency} has {digits} decimals, nanos must be a multiple of {step}")]
    Fraction {
        /// The currency.
        currency: Currency,
        /// The number of its decimals.
        digits: u32,
        /// The number of which nanos must be a multiple.
        step: i64,
    },
    /// More than 2^63 − 1 minor units.
    #[error("the amount is too large")]
    TooLarge,
    /// Amounts of two currencies.
    #[error("{left} and {right} cannot be added")]
    Mixed {
        /// The first currency.
        left: Currency,
        /// The second currency.
        right: Currency,
    },
}

impl Money {
    /// An amount of `minor` units.
    ///
    /// # Errors
    /// [`MoneyError::Negative`].
    pub fn new(minor: i64, currency: Currency) -> Result<Self, MoneyError> {
        if minor < 0 { Err(MoneyError::Negative) } else { Ok(Self { minor, currency }) }
    }

    /// The amount in minor units; never negative.
    #[must_use]
    pub fn minor(self) -> i64 {
        self.minor
    }

    /// The currency.
    #[must_use]
    pub fn currency(self) -> Currency {
        self.currency
    }

    /// Parses an optional field.
    ///
    /// # Errors
    /// When the field is absent, negative, finer than a minor unit, too large,
    /// or of an unknown currency.
    pub fn parse(wire: Option<&Wire>) -> Result<Self, MoneyError> {
        let wire = wire.ok_or(MoneyError::Missing)?;
        let currency: Currency = wire.currency_code.parse()?;
        if wire.units < 0 || wire.nanos < 0 {
            return Err(MoneyError::Negative);
        }
        let nanos = i64::from(wire.nanos);
        if nanos >= NANOS_PER_UNIT {
            return Err(MoneyError::Nanos);
        }
        let step = NANOS_PER_UNIT / currency.minor_per_unit();
        if nanos % step != 0 {
            return Err(MoneyError::Fraction { currency, digits: currency.digits(), step });
        }
        let whole = wire.units.checked_mul(currency.minor_per_unit());
        let minor = whole.and_then(|whole| whole.checked_add(nanos / step));
        Self::new(minor.ok_or(MoneyError::TooLarge)?, currency)
    }

    /// The price of `quantity` pieces at this price.
    ///
    /// # Errors
    /// [`MoneyError::TooLarge`].
    pub fn times(self, quantity: Quantity) -> Result<Self, MoneyError> {
        let minor = self.minor.checked_mul(quantity.get().into()).ok_or(MoneyError::TooLarge)?;
        Ok(Self { minor, ..self })
    }

    /// The sum of two amounts.
    ///
    /// # Errors
    /// [`MoneyError::Mixed`], [`MoneyError::TooLarge`].
    pub fn plus(self, other: Self) -> Result<Self, MoneyError> {
        if self.currency != other.currency {
            return Err(MoneyError::Mixed { left: self.currency, right: other.currency });
        }
        let minor = self.minor.checked_add(other.minor).ok_or(MoneyError::TooLarge)?;
        Ok(Self { minor, ..self })
    }

    /// The total of lines with a price and a quantity; `None` without lines, since
    /// there is no currency then.
    ///
    /// # Errors
    /// [`MoneyError::Mixed`], [`MoneyError::TooLarge`].
    pub fn total(lines: impl IntoIterator<Item = (Self, Quantity)>) -> Result<Option<Self>, MoneyError> {
        let mut total: Option<Self> = None;
        for (price, quantity) in lines {
            let line = price.times(quantity)?;
            total = Some(match total {
                None => line,
                Some(total) => total.plus(line)?,
            });
        }
        Ok(total)
    }
}

impl From<Money> for Wire {
    fn from(money: Money) -> Self {
        let per_unit = money.currency.minor_per_unit();
        let nanos = money.minor % per_unit * (NANOS_PER_UNIT / per_unit);
        Self {
            currency_code: money.currency.to_string(),
            units: money.minor / per_unit,
            // Below 10^9 by construction, so it always fits.
            nanos: i32::try_from(nanos).unwrap_or_default(),
        }
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (per_unit, digits) = (self.currency.minor_per_unit(), self.currency.digits() as usize);
        write!(f, "{}", self.minor / per_unit)?;
        if digits > 0 {
            write!(f, ".{:0digits$}", self.minor % per_unit)?;
        }
        write!(f, " {}", self.currency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(currency: &str, units: i64, nanos: i32) -> Wire {
        Wire { currency_code: currency.into(), units, nanos }
    }

    fn money(minor: i64, currency: &str) -> Money {
        Money::new(minor, currency.parse().unwrap()).unwrap()
    }

    #[test]
    fn an_amount_survives_the_wire_exactly() {
        let cases = [
            (wire("EUR", 19, 990_000_000), 1_999, "19.99 EUR"),
            (wire("EUR", 0, 10_000_000), 1, "0.01 EUR"),
            (wire("EUR", 0, 0), 0, "0.00 EUR"),
            (wire("JPY", 500, 0), 500, "500 JPY"),
            (wire("KWD", 1, 5_000_000), 1_005, "1.005 KWD"),
            (wire("EUR", i64::MAX / 100, 70_000_000), i64::MAX, "92233720368547758.07 EUR"),
        ];
        for (wire, minor, text) in cases {
            let money = Money::parse(Some(&wire)).unwrap();
            assert_eq!(money.minor(), minor);
            assert_eq!(money.to_string(), text);
            assert_eq!(Wire::from(money), wire);
        }
    }

    #[test]
    fn what_is_no_amount_is_refused_with_its_reason() {
        let too_fine =
            |code: &str, digits, step| MoneyError::Fraction { currency: code.parse().unwrap(), digits, step };
        let cases = [
            (wire("EUR", -1, 0), MoneyError::Negative),
            (wire("EUR", 0, -1), MoneyError::Negative),
            (wire("EUR", 1, -10_000_000), MoneyError::Negative),
            (wire("EUR", 0, 1_000_000_000), MoneyError::Nanos),
            (wire("EUR", 0, 1), too_fine("EUR", 2, 10_000_000)),
            (wire("EUR", 0, 5_000_000), too_fine("EUR", 2, 10_000_000)),
            (wire("JPY", 0, 10_000_000), too_fine("JPY", 0, 1_000_000_000)),
            (wire("EUR", i64::MAX / 100, 80_000_000), MoneyError::TooLarge),
            (wire("EUR", i64::MAX, 0), MoneyError::TooLarge),
        ];
        for (wire, error) in cases {
            assert_eq!(Money::parse(Some(&wire)), Err(error), "{wire:?}");
        }
        assert_eq!(Money::parse(None), Err(MoneyError::Missing));
        for code in ["", "eur", "EURO", "XXX", "€"] {
            assert!(matches!(Money::parse(Some(&wire(code, 1, 0))), Err(MoneyError::Currency(_))), "{code}");
        }
    }

    #[test]
    fn a_total_is_exact_or_an_error() {
        let quantity = |n| Quantity::parse(n).unwrap();
        let total = Money::total([(money(1_999, "EUR"), quantity(3)), (money(1, "EUR"), quantity(999))]);
        assert_eq!(total, Ok(Some(money(6_996, "EUR"))));
        assert_eq!(Money::total([]), Ok(None));
        let large = money(i64::MAX / 999, "EUR");
        assert_eq!(Money::total([(large, quantity(999)), (large, quantity(999))]), Err(MoneyError::TooLarge));
        assert_eq!(large.plus(money(1, "EUR")).unwrap().times(quantity(999)), Err(MoneyError::TooLarge));
        assert!(matches!(money(1, "EUR").plus(money(1, "USD")), Err(MoneyError::Mixed { .. })));
    }
}
