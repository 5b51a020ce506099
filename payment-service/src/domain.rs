//! Charges and their state machine.

use std::{cmp::Ordering, fmt};

use mesh_proto::shop::payment::v1 as wire;
use service_kit::{
    id::Id,
    money::{Money, MoneyError},
    timestamp::Timestamp,
    value::{CustomerId, InvalidValue},
};

/// The id of a charge, which sorts by the time of the first call with its key.
pub type ChargeId = Id<Charge>;

/// The marker of [`IdempotencyKey`].
#[derive(Debug)]
pub enum IdempotencyKeyKind {}
/// The key of a charge: a UUID that the caller chose, the same in every repetition.
pub type IdempotencyKey = Id<IdempotencyKeyKind>;

/// The charge of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// The id.
    pub id: ChargeId,
    /// The key of the calls that made it.
    pub key: IdempotencyKey,
    /// The state.
    pub state: ChargeState,
    /// The body; `None` when the key was voided before it was charged.
    pub terms: Option<Terms>,
    /// The highest attempt that has changed the state.
    pub token: FencingToken,
    /// The time of the first call with the key.
    pub created: Timestamp,
    /// The time of the last change.
    pub updated: Timestamp,
}

/// The number of an attempt to charge a key: higher for each new attempt, the same
/// when one is repeated. The default is an attempt without a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FencingToken(i64);

impl FencingToken {
    /// Parses a number; 0 means none.
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

/// The relation of an attempt to the charge of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The attempt is new.
    New,
    /// This attempt was declined before.
    Declined,
    /// A later attempt was declined, so this one is outdated.
    Superseded,
}

impl Charge {
    /// Classifies an attempt by its number. A decline promises that nothing is charged,
    /// so it holds for all attempts up to the declined one, also for those that arrive
    /// late. In every other state, and for attempts without a number,
    /// [`ChargeState::after`] decides.
    #[must_use]
    pub fn classify(&self, token: FencingToken) -> Attempt {
        if self.state != ChargeState::Declined || token == FencingToken::default() {
            return Attempt::New;
        }
        match token.cmp(&self.token) {
            Ordering::Less => Attempt::Superseded,
            Ordering::Equal => Attempt::Declined,
            Ordering::Greater => Attempt::New,
        }
    }
}

/// The body of a charge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The payer.
    pub customer: CustomerId,
    /// The amount.
    pub amount: Amount,
    /// The payment method.
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

/// An amount that can be charged: a positive one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount(Money);

/// The reason why an amount cannot be charged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// The amount is malformed.
    #[error(transparent)]
    Money(#[from] MoneyError),
    /// The amount is not positive.
    #[error("the amount must be positive")]
    NotPositive,
}

impl Amount {
    /// The amount, if it can be charged.
    ///
    /// # Errors
    /// [`AmountError::NotPositive`].
    pub fn of(money: Money) -> Result<Self, AmountError> {
        if money.minor() > 0 { Ok(Self(money)) } else { Err(AmountError::NotPositive) }
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
    /// The method that is always declined.
    const DECLINED: &'static str = "pm_card_declined";

    /// Parses a payment method.
    ///
    /// # Errors
    /// When it is empty, too long or has other characters.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
        if matches!(text.len(), 1..=128) && text.bytes().all(is_allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidValue("must be 1 to 128 characters of a-z, 0-9, _ and -".into()))
        }
    }

    /// True for the method that is always declined.
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

/// The state of a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChargeState {
    /// The customer has paid.
    Succeeded,
    /// The payment method was declined; another may be tried.
    Declined,
    /// The customer has paid and was refunded; final.
    Refunded,
    /// Refunded before anything was charged; final.
    Voided,
}

/// An event of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChargeEvent {
    /// A call charges it, and the payment method is accepted.
    Charge,
    /// A call charges it, and the payment method is declined.
    Decline,
    /// A call refunds it.
    Refund,
}

/// A posting of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posting {
    /// From the customers to the shop.
    Charge,
    /// From the shop to the customers.
    Refund,
}

/// The key was refunded or voided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Final;

impl ChargeState {
    /// All transitions: the state after an event, and the posting that it makes. `None`
    /// is the state of an unknown key.
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
    /// A successful charge stays successful when its payment method is declined later.
    ///
    /// # Errors
    /// [`Final`].
    pub fn after(from: Option<Self>, event: ChargeEvent) -> Result<(Self, Option<Posting>), Final> {
        use ChargeEvent as Event;
        Ok(match (from, event) {
            (None | Some(Self::Declined), Event::Charge) => (Self::Succeeded, Some(Posting::Charge)),
            (None | Some(Self::Declined), Event::Decline) => (Self::Declined, None),
            (Some(Self::Succeeded), Event::Charge | Event::Decline) => (Self::Succeeded, None),
            (Some(Self::Refunded | Self::Voided), Event::Charge | Event::Decline) => {
                return Err(Final);
            }

            (Some(Self::Succeeded), Event::Refund) => (Self::Refunded, Some(Posting::Refund)),
            (None | Some(Self::Declined), Event::Refund) => (Self::Voided, None),
            (Some(state @ (Self::Refunded | Self::Voided)), Event::Refund) => (state, None),
        })
    }

    /// The value in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Declined => "declined",
            Self::Refunded => "refunded",
            Self::Voided => "voided",
        }
    }

    /// Parses a value of the database.
    ///
    /// # Errors
    /// When it is no state.
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
            ChargeState::Succeeded => wire::ChargeState::Succeeded,
            ChargeState::Declined => wire::ChargeState::Declined,
            ChargeState::Refunded => wire::ChargeState::Refunded,
            ChargeState::Voided => wire::ChargeState::Voided,
        };
        let Charge { id, key, terms, created, updated, .. } = charge;
        let without_terms = Self {
            charge_id: id.to_string(),
            idempotency_key: key.to_string(),
            state: state.into(),
            create_time: Some(created.into()),
            update_time: Some(updated.into()),
            ..Self::default()
        };
        let Some(Terms { customer, amount, method }) = terms else { return without_terms };
        Self {
            customer_id: customer.as_str().to_owned(),
            amount: Some(amount.money().into()),
            payment_method: method.0,
            ..without_terms
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [Option<ChargeState>; 5] = [
        None,
        Some(ChargeState::Succeeded),
        Some(ChargeState::Declined),
        Some(ChargeState::Refunded),
        Some(ChargeState::Voided),
    ];

    #[test]
    fn a_repeated_event_changes_nothing_and_final_states_stay() {
        for from in STATES {
            for event in [ChargeEvent::Charge, ChargeEvent::Decline, ChargeEvent::Refund] {
                let Ok((to, _)) = ChargeState::after(from, event) else {
                    assert!(
                        matches!(from, Some(ChargeState::Refunded | ChargeState::Voided)),
                        "{from:?} {event:?}"
                    );
                    continue;
                };
                assert_eq!(ChargeState::after(Some(to), event), Ok((to, None)), "{from:?} {event:?}");
                assert!(
                    !matches!(from, Some(ChargeState::Refunded | ChargeState::Voided)) || from == Some(to)
                );
            }
        }
    }

    #[test]
    fn postings_match_the_states() {
        let paid = |state: Option<ChargeState>| i32::from(state == Some(ChargeState::Succeeded));
        for from in STATES {
            for event in [ChargeEvent::Charge, ChargeEvent::Decline, ChargeEvent::Refund] {
                let Ok((to, posting)) = ChargeState::after(from, event) else { continue };
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
