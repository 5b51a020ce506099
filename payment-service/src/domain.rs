//! What a charge is, and how it may change.

use std::{cmp::Ordering, fmt};

use mesh_proto::shop::payment::v1 as wire;
use service_kit::{
    money::{Money, MoneyError},
    timestamp::Timestamp,
    value::{CustomerId, InvalidValue},
};

mod id;

pub use id::{ChargeId, Key};

/// What became of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Its id.
    pub id: ChargeId,
    /// What it was asked for with.
    pub key: Key,
    /// Where it stands.
    pub state: State,
    /// Who pays what; `None` when it was voided before anybody tried.
    pub terms: Option<Terms>,
    /// The highest attempt that has decided where it stands.
    pub token: FencingToken,
    /// When the key was first seen.
    pub created: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
}

/// The number of an attempt to charge a key: higher for each new one, the same
/// when one is sent again. The default is an attempt without a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FencingToken(i64);

impl FencingToken {
    /// Reads a number; 0 is none.
    ///
    /// # Errors
    /// When it is negative.
    pub fn parse(number: i64) -> Result<Self, InvalidValue> {
        if number < 0 { Err(InvalidValue("must not be negative".into())) } else { Ok(Self(number)) }
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> i64 {
        self.0
    }
}

/// What an attempt to charge is to what became of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It decides.
    New,
    /// It was declined before: that is its answer.
    Declined,
    /// A later one was declined: this one was given up.
    Superseded,
}

impl Charge {
    /// What an attempt of that number is to this charge. A decline promises that
    /// nothing is charged, so it holds for all attempts up to the declined one,
    /// also when their bytes arrive late. In every other state, and for attempts
    /// without a number, [`State::after`] decides.
    #[must_use]
    pub fn classify(&self, token: FencingToken) -> Attempt {
        if self.state != State::Declined || token == FencingToken::default() {
            return Attempt::New;
        }
        match token.cmp(&self.token) {
            Ordering::Less => Attempt::Superseded,
            Ordering::Equal => Attempt::Declined,
            Ordering::Greater => Attempt::New,
        }
    }
}

/// Who pays how much with what: the body of a charge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Who pays.
    pub customer: CustomerId,
    /// How much.
    pub amount: Amount,
    /// With what.
    pub method: PaymentMethod,
}

impl Terms {
    /// The fields, by their names in the protocol, in which the two differ.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let fields = [
            ("customer_id", self.customer == other.customer),
            ("amount", self.amount == other.amount),
            ("payment_method", self.method == other.method),
        ];
        fields.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
    }
}

/// An amount that can be charged: more than nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount(Money);

/// An amount that cannot be charged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not an amount at all.
    #[error(transparent)]
    Money(#[from] MoneyError),
    /// Nothing.
    #[error("the amount must be positive")]
    Nothing,
}

impl Amount {
    /// The amount, if it can be charged.
    ///
    /// # Errors
    /// [`AmountError::Nothing`].
    pub fn of(money: Money) -> Result<Self, AmountError> {
        if money.minor() > 0 { Ok(Self(money)) } else { Err(AmountError::Nothing) }
    }

    /// The amount as money.
    #[must_use]
    pub fn money(self) -> Money {
        self.0
    }
}

/// A token of the payment provider: 1 to 128 characters of `a-z`, `0-9`, `_`
/// and `-`. Not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct PaymentMethod(String);

impl fmt::Debug for PaymentMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PaymentMethod(…)")
    }
}

impl PaymentMethod {
    /// The one that is always declined.
    const DECLINED: &'static str = "pm_card_declined";

    /// Reads a payment method.
    ///
    /// # Errors
    /// When it is empty, too long or has other characters.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
        if matches!(text.len(), 1..=128) && text.bytes().all(fits) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidValue("must be 1 to 128 characters of a-z, 0-9, _ and -".into()))
        }
    }

    /// Whether its provider declines whatever is charged.
    #[must_use]
    pub fn is_declined(&self) -> bool {
        self.0 == Self::DECLINED
    }

    /// The token as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where a charge stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The customer has paid.
    Succeeded,
    /// The payment method was declined; another may be tried.
    Declined,
    /// The customer has paid and got everything back; final.
    Refunded,
    /// Refunded before anything was charged; final.
    Voided,
}

/// What can happen to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is charged, and the payment method is good for it.
    Charge,
    /// It is charged, and the payment method is not.
    Decline,
    /// It is refunded.
    Refund,
}

/// What goes into the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posting {
    /// From the customers to the shop.
    Charge,
    /// Back.
    Refund,
}

/// The key was refunded or voided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Final;

impl State {
    /// Where a key stands after an event, and what that puts into the ledger:
    /// all transitions there are. `None` is a key that was never seen.
    ///
    /// ```text
    ///                  charge                refund
    ///  unknown ────────────────► Succeeded ─────────► Refunded
    ///   │    │                       ▲                 (final)
    ///   │    │ decline               │ charge
    ///   │    └────────► Declined ────┘
    ///   │ refund           │ refund
    ///   └───────► Voided ◄─┘
    ///             (final)
    /// ```
    ///
    /// A charge that succeeded has succeeded, whatever the payment method is
    /// good for later.
    ///
    /// # Errors
    /// [`Final`].
    pub fn after(from: Option<Self>, event: Event) -> Result<(Self, Option<Posting>), Final> {
        Ok(match (from, event) {
            (None | Some(Self::Declined), Event::Charge) => (Self::Succeeded, Some(Posting::Charge)),
            (None | Some(Self::Declined), Event::Decline) => (Self::Declined, None),
            (Some(Self::Succeeded), Event::Charge | Event::Decline) => (Self::Succeeded, None),
            (Some(Self::Refunded | Self::Voided), Event::Charge | Event::Decline) => return Err(Final),

            (Some(Self::Succeeded), Event::Refund) => (Self::Refunded, Some(Posting::Refund)),
            (None | Some(Self::Declined), Event::Refund) => (Self::Voided, None),
            (Some(state @ (Self::Refunded | Self::Voided)), Event::Refund) => (state, None),
        })
    }

    /// As it stands in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Declined => "declined",
            Self::Refunded => "refunded",
            Self::Voided => "voided",
        }
    }

    /// Reads what [`as_str`](Self::as_str) wrote.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        [Self::Succeeded, Self::Declined, Self::Refunded, Self::Voided]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| InvalidValue("is not a state of a charge".into()))
    }
}

impl From<Charge> for wire::Charge {
    fn from(charge: Charge) -> Self {
        let state = match charge.state {
            State::Succeeded => wire::ChargeState::Succeeded,
            State::Declined => wire::ChargeState::Declined,
            State::Refunded => wire::ChargeState::Refunded,
            State::Voided => wire::ChargeState::Voided,
        };
        let Charge { id, key, terms, created, updated, .. } = charge;
        let bare = Self {
            charge_id: id.to_string(),
            idempotency_key: key.to_string(),
            state: state.into(),
            create_time: Some(created.into()),
            update_time: Some(updated.into()),
            ..Self::default()
        };
        let Some(Terms { customer, amount, method }) = terms else { return bare };
        Self {
            customer_id: customer.as_str().to_owned(),
            amount: Some(amount.money().into()),
            payment_method: method.0,
            ..bare
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [Option<State>; 5] =
        [None, Some(State::Succeeded), Some(State::Declined), Some(State::Refunded), Some(State::Voided)];

    #[test]
    fn the_second_time_changes_nothing_and_what_is_final_stays() {
        for from in STATES {
            for event in [Event::Charge, Event::Decline, Event::Refund] {
                let Ok((to, _)) = State::after(from, event) else {
                    assert!(matches!(from, Some(State::Refunded | State::Voided)), "{from:?} {event:?}");
                    continue;
                };
                assert_eq!(State::after(Some(to), event), Ok((to, None)), "{from:?} {event:?}");
                assert!(!matches!(from, Some(State::Refunded | State::Voided)) || from == Some(to));
            }
        }
    }

    #[test]
    fn the_ledger_holds_what_the_states_say() {
        let paid = |state: Option<State>| i32::from(state == Some(State::Succeeded));
        for from in STATES {
            for event in [Event::Charge, Event::Decline, Event::Refund] {
                let Ok((to, posting)) = State::after(from, event) else { continue };
                let posted = match posting {
                    Some(Posting::Charge) => 1,
                    Some(Posting::Refund) => -1,
                    None => 0,
                };
                assert_eq!(paid(from) + posted, paid(Some(to)), "{from:?} {event:?}");
            }
        }
    }

    #[test]
    fn a_payment_method_is_a_token() {
        for good in ["pm_card_visa", "a", &"x".repeat(128)] {
            assert!(PaymentMethod::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "PM", "a b", "4111 1111", "a\n", "ä", &"x".repeat(129)] {
            let why = PaymentMethod::parse(bad).unwrap_err().to_string();
            assert!(bad.len() < 2 || !why.contains(bad), "{bad}");
        }
        assert!(PaymentMethod::parse("pm_card_declined").unwrap().is_declined());
    }
}
