//! What a reservation is, and how it may change.

use std::{fmt, time::Duration};

use mesh_proto::shop::product::v1 as wire;
use service_kit::{
    timestamp::Timestamp,
    value::{InvalidValue, Quantity, Sku},
};
use uuid::Uuid;

/// A set of pieces that somebody wants to buy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Its id.
    pub id: ReservationId,
    /// What it is of.
    pub items: Items,
    /// Where it stands.
    pub state: State,
    /// When the lease runs out; only while it is held.
    pub expires: Option<Timestamp>,
}

/// The id of a reservation: a UUID that the caller chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReservationId(Uuid);

impl ReservationId {
    /// Reads an id; how a UUID is spelt makes no difference.
    ///
    /// # Errors
    /// When it is not a UUID.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        let uuid = Uuid::try_parse(text).ok().filter(|uuid| !uuid.is_nil());
        uuid.map(Self).ok_or_else(|| InvalidValue("must be a UUID that is not all zeroes".into()))
    }
}

impl fmt::Display for ReservationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// How long pieces are set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease(Duration);

impl Lease {
    /// What is meant when nothing is said.
    pub const DEFAULT: Self = Self(Duration::from_secs(600));
    const LONGEST: Duration = Duration::from_secs(3_600);
    const SHORTEST: Duration = Duration::from_secs(1);

    /// Reads a lease.
    ///
    /// # Errors
    /// When it is not 1 s to 1 h.
    pub fn parse(wire: Option<prost_types::Duration>) -> Result<Self, InvalidValue> {
        let Some(wire) = wire else { return Ok(Self::DEFAULT) };
        // By hand: the conversion of the generated type panics on some numbers.
        let lease = match (u64::try_from(wire.seconds), u32::try_from(wire.nanos)) {
            (Ok(seconds @ 0..=3_600), Ok(nanos @ 0..1_000_000_000)) => Some(Duration::new(seconds, nanos)),
            _ => None,
        };
        lease
            .filter(|lease| (Self::SHORTEST..=Self::LONGEST).contains(lease))
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

/// So many pieces of one product.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item {
    /// Which product.
    pub sku: Sku,
    /// How many pieces.
    pub quantity: Quantity,
}

/// Pieces of products, each product once, by SKU: whoever locks their stock
/// does it in this order, and so nobody waits in a circle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Items(Vec<Item>);

impl Items {
    /// These items.
    ///
    /// # Errors
    /// With the place of an item whose product stands before already.
    pub fn of(items: Vec<Item>) -> Result<Self, usize> {
        let twice = (1..items.len()).find(|&n| items[..n].iter().any(|item| item.sku == items[n].sku));
        match twice {
            Some(place) => Err(place),
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

    /// Reads what `Display` wrote.
    ///
    /// # Errors
    /// When it is something else.
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
        for (place, Item { sku, quantity }) in self.0.iter().enumerate() {
            let space = if place > 0 { " " } else { "" };
            write!(f, "{space}{sku}*{}", quantity.get())?;
        }
        Ok(())
    }
}

/// Where a reservation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The pieces are set aside until the lease runs out.
    Held,
    /// The pieces are sold.
    Committed,
    /// The pieces have returned, or never were taken; final.
    Released,
    /// The lease ran out and the pieces have returned.
    Expired,
}

/// What can happen to a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is asked for.
    Reserve,
    /// Its pieces are sold.
    Commit,
    /// Its pieces are not, or no longer, sold.
    Release,
    /// Its lease runs out.
    RunOut,
}

/// Where a piece can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It can be reserved.
    Available,
    /// It is set aside.
    Reserved,
    /// It is sold.
    Sold,
}

/// All pieces of a reservation go from one place to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Where they are.
    pub from: Place,
    /// Where they go.
    pub to: Place,
}

/// Why an event cannot happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Impossible {
    /// There is no such reservation.
    Unknown,
    /// It was released.
    Released,
}

impl State {
    /// Where a reservation stands after an event, and where its pieces go: all
    /// transitions there are. `None` is one that is not known yet.
    ///
    /// ```text
    ///             reserve              commit
    ///  unknown ─────────────► Held ─────────────► Committed
    ///     │                   ▲  │                 ▲     │
    ///     │           reserve │  │ lease           │     │
    ///     │                   │  ▼ runs out        │     │
    ///     │                  Expired ──commit──────┘     │
    ///     │ release                                      │
    ///     └────────► Released ◄──────────release─────────┘
    ///                    ▲       (also of Held, Expired)
    ///                    └── final
    /// ```
    ///
    /// Whatever happens a second time changes nothing.
    ///
    /// # Errors
    /// [`Impossible`].
    pub fn after(from: Option<Self>, event: Event) -> Result<(Self, Option<Move>), Impossible> {
        use Place::{Available, Reserved, Sold};
        let goes = |from, to| Some(Move { from, to });
        Ok(match (from, event) {
            (None | Some(Self::Expired), Event::Reserve) => (Self::Held, goes(Available, Reserved)),
            (Some(state @ (Self::Held | Self::Committed)), Event::Reserve) => (state, None),

            (Some(Self::Held), Event::Commit) => (Self::Committed, goes(Reserved, Sold)),
            (Some(Self::Expired), Event::Commit) => (Self::Committed, goes(Available, Sold)),
            (Some(Self::Committed), Event::Commit) => (Self::Committed, None),

            (Some(Self::Held), Event::Release) => (Self::Released, goes(Reserved, Available)),
            (Some(Self::Committed), Event::Release) => (Self::Released, goes(Sold, Available)),
            (None | Some(Self::Expired | Self::Released), Event::Release) => (Self::Released, None),

            (Some(Self::Held), Event::RunOut) => (Self::Expired, goes(Reserved, Available)),
            (Some(state), Event::RunOut) => (state, None),

            (Some(Self::Released), Event::Reserve | Event::Commit) => return Err(Impossible::Released),
            (None, Event::Commit | Event::RunOut) => return Err(Impossible::Unknown),
        })
    }

    /// As it stands in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Committed => "committed",
            Self::Released => "released",
            Self::Expired => "expired",
        }
    }

    /// Reads what [`as_str`](Self::as_str) wrote.
    ///
    /// # Errors
    /// When it is something else.
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
            State::Held => wire::ReservationState::Held,
            State::Committed => wire::ReservationState::Committed,
            State::Released => wire::ReservationState::Released,
            State::Expired => wire::ReservationState::Expired,
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
    fn items_are_kept_by_sku_and_read_as_they_were_written() {
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
    fn the_second_time_changes_nothing_and_a_release_is_final() {
        let all = [State::Held, State::Committed, State::Released, State::Expired].map(Some);
        for from in all.into_iter().chain([None]) {
            for event in [Event::Reserve, Event::Commit, Event::Release, Event::RunOut] {
                let Ok((to, _)) = State::after(from, event) else { continue };
                assert_eq!(State::after(Some(to), event), Ok((to, None)), "{from:?} {event:?}");
                assert!(from != Some(State::Released) || to == State::Released);
            }
        }
        for event in [Event::Reserve, Event::Commit] {
            assert_eq!(State::after(Some(State::Released), event), Err(Impossible::Released));
        }
        assert_eq!(State::after(None, Event::Commit), Err(Impossible::Unknown));
    }

    /// Where the pieces of a reservation are in each state.
    fn place(state: Option<State>) -> Place {
        match state {
            Some(State::Held) => Place::Reserved,
            Some(State::Committed) => Place::Sold,
            None | Some(State::Released | State::Expired) => Place::Available,
        }
    }

    #[test]
    fn pieces_go_where_the_state_says_they_are() {
        let all = [State::Held, State::Committed, State::Released, State::Expired].map(Some);
        for from in all.into_iter().chain([None]) {
            for event in [Event::Reserve, Event::Commit, Event::Release, Event::RunOut] {
                let Ok((to, moved)) = State::after(from, event) else { continue };
                let ends = moved.map_or((place(from), place(from)), |Move { from, to }| (from, to));
                assert_eq!(ends, (place(from), place(Some(to))), "{from:?} {event:?}");
            }
        }
    }
}
