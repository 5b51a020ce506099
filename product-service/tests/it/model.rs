//! The model of the stock: sequential, in memory.

use stateright::semantics::SequentialSpec;

/// The number of products.
pub(crate) const PRODUCTS: usize = 2;

/// The pieces of each product in each reservation.
pub(crate) const RESERVED_PIECES: [[i64; PRODUCTS]; 4] = [[2, 0], [1, 2], [0, 2], [3, 1]];

/// The operations, with the indexes of reservations and products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    Reserve(usize),
    Commit(usize),
    Release(usize),
    Stock(usize),
    SetStock(usize, i64),
    /// The lease expires and is not swept yet.
    Lapse(usize),
    Sweep,
}

/// The results of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ret {
    Held,
    Committed,
    Released,
    /// Refused: there are too few pieces.
    Short,
    /// Refused: it was released.
    Final,
    /// Refused: there is no such reservation.
    Unknown,
    /// Available, reserved, sold.
    Pieces(i64, i64, i64),
    Done,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum ModelState {
    #[default]
    Unknown,
    Held,
    Lapsed,
    Expired,
    Committed,
    Released,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Model {
    /// Available, reserved, sold.
    stock: [[i64; 3]; PRODUCTS],
    reservations: [ModelState; RESERVED_PIECES.len()],
}

const AVAILABLE: usize = 0;
const RESERVED: usize = 1;
const SOLD: usize = 2;

impl Model {
    pub(crate) fn of(available: [i64; PRODUCTS]) -> Self {
        Self { stock: available.map(|pieces| [pieces, 0, 0]), ..Self::default() }
    }

    /// The pieces of each product, wherever they are.
    pub(crate) fn totals(&self) -> [i64; PRODUCTS] {
        self.stock.map(|pieces| pieces.iter().sum())
    }

    fn has(&self, reservation: usize) -> bool {
        (0..PRODUCTS).all(|product| self.stock[product][AVAILABLE] >= RESERVED_PIECES[reservation][product])
    }

    fn shift(&mut self, reservation: usize, from: usize, to: usize) {
        for (stock, pieces) in self.stock.iter_mut().zip(RESERVED_PIECES[reservation]) {
            stock[from] -= pieces;
            stock[to] += pieces;
        }
    }

    fn sweep(&mut self, reservation: usize) {
        if self.reservations[reservation] == ModelState::Lapsed {
            self.shift(reservation, RESERVED, AVAILABLE);
            self.reservations[reservation] = ModelState::Expired;
        }
    }

    fn reserve(&mut self, n: usize) -> Ret {
        match self.reservations[n] {
            ModelState::Unknown | ModelState::Expired if !self.has(n) => Ret::Short,
            ModelState::Unknown | ModelState::Expired => {
                self.shift(n, AVAILABLE, RESERVED);
                self.reservations[n] = ModelState::Held;
                Ret::Held
            }
            ModelState::Held | ModelState::Lapsed => Ret::Held,
            ModelState::Committed => Ret::Committed,
            ModelState::Released => Ret::Final,
        }
    }

    fn commit(&mut self, n: usize) -> Ret {
        let from = match self.reservations[n] {
            ModelState::Unknown => return Ret::Unknown,
            ModelState::Released => return Ret::Final,
            ModelState::Committed => return Ret::Committed,
            ModelState::Expired if !self.has(n) => return Ret::Short,
            ModelState::Expired => AVAILABLE,
            ModelState::Held | ModelState::Lapsed => RESERVED,
        };
        self.shift(n, from, SOLD);
        self.reservations[n] = ModelState::Committed;
        Ret::Committed
    }

    fn release(&mut self, n: usize) -> Ret {
        match self.reservations[n] {
            ModelState::Held | ModelState::Lapsed => self.shift(n, RESERVED, AVAILABLE),
            ModelState::Committed => self.shift(n, SOLD, AVAILABLE),
            ModelState::Unknown | ModelState::Expired | ModelState::Released => {}
        }
        self.reservations[n] = ModelState::Released;
        Ret::Released
    }
}

impl SequentialSpec for Model {
    type Op = Op;
    type Ret = Ret;

    fn invoke(&mut self, op: &Op) -> Ret {
        match *op {
            Op::Reserve(n) | Op::Commit(n) | Op::Release(n) => {
                self.sweep(n);
                match op {
                    Op::Reserve(_) => self.reserve(n),
                    Op::Commit(_) => self.commit(n),
                    _ => self.release(n),
                }
            }
            Op::Lapse(n) => {
                if self.reservations[n] == ModelState::Held {
                    self.reservations[n] = ModelState::Lapsed;
                }
                Ret::Done
            }
            Op::Sweep => {
                (0..RESERVED_PIECES.len()).for_each(|n| self.sweep(n));
                Ret::Done
            }
            Op::SetStock(product, pieces) => {
                self.stock[product][AVAILABLE] = pieces;
                self.invoke(&Op::Stock(product))
            }
            Op::Stock(product) => {
                let [available, reserved, sold] = self.stock[product];
                Ret::Pieces(available, reserved, sold)
            }
        }
    }
}
