//! Reservations and their state machine.

use std::{fmt, time::Duration};

use mesh_proto::shop::product::v1 as wire;
use service_kit::{
    id::Id,
    timestamp::Timestamp,
    value::{InvalidValue, Quantity, Sku},
};

/// Pieces of products that are set aside for a buyer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The id.
    pub id: ReservationId,
    /// The pieces.
    pub items: Items,
    /// The state.
    pub state: ReservationState,
    /// The end of the lease; only in the state `Held`.
    pub expires: Option<Timestamp>,
}

/// The id of a reservation: a UUID that the caller chose.
pub type ReservationId = Id<Reservation>;

/// The time for which pieces are set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease(Duration);

impl Lease {
    /// The lease of a request that gives none.
    pub const DEFAULT: Self = Self(Duration::from_secs(600));
    const MAX: Duration = Duration::from_secs(3_600);
    const MIN: Duration = Duration::from_secs(1);

    /// Parses a lease.
    ///
    /// # Errors
    /// When it is not 1 s to 1 h.
    pub fn parse(wire: Option<prost_types::Duration>) -> Result<Self, InvalidValue> {
        let Some(wire) = wire else { return Ok(Self::DEFAULT) };
        // The conversion of the generated type panics on some numbers.
        let lease = match (u64::try_from(wire.seconds), u32::try_from(wire.nanos)) {
            (Ok(seconds @ 0..=3_600), Ok(nanos @ 0..1_000_000_000)) => Some(Duration::new(seconds, nanos)),
            _ => None,
        };
        lease
            .filter(|lease| (Self::MIN..=Self::MAX).contains(lease))
            .map(Self)
            .ok_or_else(|| InvalidValue("must be 1 s to 1 h".into()))
    }

    /// The lease in microseconds.
    #[must_use]
    pub fn micros(self) -> i64 {
        // At most an hour, so it always fits.
        self.0.as_micros().try_into().unwrap_or_default()
    }
}

/// Pieces of one product.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item {
    /// The product.
    pub sku: Sku,
    /// The number of pieces.
    pub quantity: Quantity,
}

/// Pieces of products, each product once, sorted by SKU. Transactions lock stock
/// in this order and cannot deadlock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Items(Vec<Item>);

impl Items {
    /// Sorts `items`.
    ///
    /// # Errors
    /// With the index of an item whose product an earlier one has.
    pub fn of(items: Vec<Item>) -> Result<Self, usize> {
        let duplicate = (1..items.len()).find(|&n| items[..n].iter().any(|item| item.sku == items[n].sku));
        match duplicate {
            Some(index) => Err(index),
            None => {
                let mut items = items;
                items.sort();
                Ok(Self(items))
            }
        }
    }

    /// The items, by SKU.
    pub fn iter(&self) -> impl Iterator<Item = &Item> {
        self.0.iter()
    }

    /// Parses the form that `Display` writes.
    ///
    /// # Errors
    /// When the text has another form.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let item = |word: &str| {
            let (sku, pieces) = word.split_once('*').ok_or_else(|| InvalidValue("is no item".into()))?;
            let pieces: u16 = pieces.parse().map_err(|_| InvalidValue("has no quantity".into()))?;
            Ok(Item { sku: Sku::parse(sku)?, quantity: Quantity::parse(pieces)? })
        };
        let items: Result<Vec<_>, InvalidValue> = text.split_ascii_whitespace().map(item).collect();
        Self::of(items?).map_err(|_| InvalidValue("names a product twice".into()))
    }
}

impl fmt::Display for Items {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Item { sku, quantity }) in self.0.iter().enumerate() {
            let space = if index > 0 { " " } else { "" };
            write!(f, "{space}{sku}*{}", quantity.get())?;
        }
        Ok(())
    }
}

/// The state of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservationState {
    /// The pieces are set aside until the lease expires.
    Held,
    /// The pieces are sold.
    Committed,
    /// The pieces are available again, or were never set aside; final.
    Released,
    /// The lease expired and the pieces are available again.
    Expired,
}

/// An event in the life of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservationEvent {
    /// A call reserves the pieces.
    Reserve,
    /// A call sells the pieces.
    Commit,
    /// A call returns the pieces.
    Release,
    /// The lease expires.
    Expire,
}

/// The place of a piece in the stock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The piece can be reserved.
    Available,
    /// The piece is set aside.
    Reserved,
    /// The piece is sold.
    Sold,
}

/// A transfer of all pieces of a reservation from one place to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The place before.
    pub from: Place,
    /// The place after.
    pub to: Place,
}

/// The reason why an event is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidTransition {
    /// There is no such reservation.
    NotFound,
    /// The reservation was released.
    Released,
}

impl ReservationState {
    /// All transitions: the state after an event, and the transfer of the pieces.
    /// `None` is the state of an unknown reservation.
    ///
    /// ```text
    ///             reserve              commit
    ///  unknown ─────────────► Held ─────────────► Committed
    ///     │                   ▲  │                 ▲     │
    ///     │           reserve │  │ lease           │     │
    ///     │                   │  ▼ expires         │     │
    ///     │                  Expired ──commit──────┘     │
    ///     │ release                                      │
    ///     └────────► Released ◄──────────release─────────┘
    ///                    ▲       (also of Held, Expired)
    ///                    └── final
    /// ```
    ///
    /// A repeated event changes nothing.
    ///
    /// # Errors
    /// [`InvalidTransition`].
    pub fn after(
        from: Option<Self>,
        event: ReservationEvent,
    ) -> Result<(Self, Option<Transfer>), InvalidTransition> {
        use Place::{Available, Reserved, Sold};
        use ReservationEvent as Event;
        let transfer = |from, to| Some(Transfer { from, to });
        Ok(match (from, event) {
            (None | Some(Self::Expired), Event::Reserve) => (Self::Held, transfer(Available, Reserved)),
            (Some(state @ (Self::Held | Self::Committed)), Event::Reserve) => (state, None),

            (Some(Self::Held), Event::Commit) => (Self::Committed, transfer(Reserved, Sold)),
            (Some(Self::Expired), Event::Commit) => (Self::Committed, transfer(Available, Sold)),
            (Some(Self::Committed), Event::Commit) => (Self::Committed, None),

            (Some(Self::Held), Event::Release) => (Self::Released, transfer(Reserved, Available)),
            (Some(Self::Committed), Event::Release) => (Self::Released, transfer(Sold, Available)),
            (None | Some(Self::Expired | Self::Released), Event::Release) => (Self::Released, None),

            (Some(Self::Held), Event::Expire) => (Self::Expired, transfer(Reserved, Available)),
            (Some(state), Event::Expire) => (state, None),

            (Some(Self::Released), Event::Reserve | Event::Commit) => {
                return Err(InvalidTransition::Released);
            }
            (None, Event::Commit | Event::Expire) => {
                return Err(InvalidTransition::NotFound);
            }
        })
    }

    /// The value in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Committed => "committed",
            Self::Released => "released",
            Self::Expired => "expired",
        }
    }

    /// Parses a value of the database.
    ///
    /// # Errors
    /// When it is no state.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        [Self::Held, Self::Committed, Self::Released, Self::Expired]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| InvalidValue("is not a state of a reservation".into()))
    }
}

impl From<Reservation> for wire::Reservation {
    fn from(reservation: Reservation) -> Self {
        let state = match reservation.state {
            ReservationState::Held => wire::ReservationState::Held,
            ReservationState::Committed => wire::ReservationState::Committed,
            ReservationState::Released => wire::ReservationState::Released,
            ReservationState::Expired => wire::ReservationState::Expired,
        };
        let item = |Item { sku, quantity }: Item| wire::ReservedItem {
            product_id: sku.to_string(),
            quantity: quantity.get().into(),
        };
        Self {
            reservation_id: reservation.id.to_string(),
            items: reservation.items.0.into_iter().map(item).collect(),
            state: state.into(),
            expire_time: reservation.expires.map(Into::into),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(sku: &str, pieces: u16) -> Item {
        Item { sku: Sku::parse(sku).unwrap(), quantity: Quantity::parse(pieces).unwrap() }
    }

    #[test]
    fn items_are_sorted_by_sku_and_survive_a_round_trip() {
        let items = Items::of(vec![item("tea", 3), item("a-1", 999), item("mug", 1)]).unwrap();
        assert_eq!(items.to_string(), "a-1*999 mug*1 tea*3");
        assert_eq!(Items::parse(&items.to_string()), Ok(items));
        assert_eq!(Items::parse(""), Ok(Items::default()));
        for bad in ["tea", "tea*", "tea*0", "tea*1000", "Tea*1", "tea*1 tea*1", "tea*1*1"] {
            assert!(Items::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Items::of(vec![item("tea", 3), item("mug", 1), item("tea", 1)]), Err(2));
    }

    #[test]
    fn a_lease_is_a_second_to_an_hour() {
        let lease = |seconds, nanos| Lease::parse(Some(prost_types::Duration { seconds, nanos }));
        assert_eq!(Lease::parse(None).unwrap().micros(), 600_000_000);
        assert_eq!(lease(1, 0).unwrap().micros(), 1_000_000);
        assert_eq!(lease(3_600, 0).unwrap().micros(), 3_600_000_000);
        for (seconds, nanos) in
            [(0, 999_999_999), (3_600, 1), (-1, 0), (i64::MAX, 0), (i64::MIN, 0), (1, -1), (1, i32::MAX)]
        {
            assert!(lease(seconds, nanos).is_err(), "{seconds} {nanos}");
        }
    }

    #[test]
    fn a_repeated_event_changes_nothing_and_a_release_is_final() {
        let all = [
            ReservationState::Held,
            ReservationState::Committed,
            ReservationState::Released,
            ReservationState::Expired,
        ]
        .map(Some);
        for from in all.into_iter().chain([None]) {
            for event in [
                ReservationEvent::Reserve,
                ReservationEvent::Commit,
                ReservationEvent::Release,
                ReservationEvent::Expire,
            ] {
                let Ok((to, _)) = ReservationState::after(from, event) else { continue };
                assert_eq!(ReservationState::after(Some(to), event), Ok((to, None)), "{from:?} {event:?}");
                assert!(from != Some(ReservationState::Released) || to == ReservationState::Released);
            }
        }
        for event in [ReservationEvent::Reserve, ReservationEvent::Commit] {
            assert_eq!(
                ReservationState::after(Some(ReservationState::Released), event),
                Err(InvalidTransition::Released)
            );
        }
        assert_eq!(ReservationState::after(None, ReservationEvent::Commit), Err(InvalidTransition::NotFound));
    }

    /// The place of the pieces of a reservation in a state.
    fn place(state: Option<ReservationState>) -> Place {
        match state {
            Some(ReservationState::Held) => Place::Reserved,
            Some(ReservationState::Committed) => Place::Sold,
            None | Some(ReservationState::Released | ReservationState::Expired) => Place::Available,
        }
    }

    #[test]
    fn transfers_match_the_place_of_each_state() {
        let all = [
            ReservationState::Held,
            ReservationState::Committed,
            ReservationState::Released,
            ReservationState::Expired,
        ]
        .map(Some);
        for from in all.into_iter().chain([None]) {
            for event in [
                ReservationEvent::Reserve,
                ReservationEvent::Commit,
                ReservationEvent::Release,
                ReservationEvent::Expire,
            ] {
                let Ok((to, moved)) = ReservationState::after(from, event) else { continue };
                let ends = moved.map_or((place(from), place(from)), |Transfer { from, to }| (from, to));
                assert_eq!(ends, (place(from), place(Some(to))), "{from:?} {event:?}");
            }
        }
    }
}
