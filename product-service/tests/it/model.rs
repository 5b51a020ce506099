//! The stock as it should be, kept in the simplest way: one thing after the
//! other, in memory.

use stateright::semantics::SequentialSpec;

/// How many products there are.
pub(crate) const PRODUCTS: usize = 2;

/// What each reservation is of: pieces of each product, by their places.
pub(crate) const WANTED: [[i64; PRODUCTS]; 4] = [[2, 0], [1, 2], [0, 2], [3, 1]];

/// What can be asked of the stock. Reservations and products by their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    Reserve(usize),
    Commit(usize),
    Release(usize),
    Stock(usize),
    SetStock(usize, i64),
    /// The lease runs out, and nobody sweeps it yet.
    Lapse(usize),
    Sweep,
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ret {
    Held,
    Committed,
    Released,
    /// Refused: there are too few pieces.
    Short,
    /// Refused: it was released.
    Final,
    /// Refused: there is none.
    Unknown,
    /// Available, reserved, sold.
    Pieces(i64, i64, i64),
    Done,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Standing {
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
    reservations: [Standing; WANTED.len()],
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
        (0..PRODUCTS).all(|product| self.stock[product][AVAILABLE] >= WANTED[reservation][product])
    }

    fn shift(&mut self, reservation: usize, from: usize, to: usize) {
        for (stock, pieces) in self.stock.iter_mut().zip(WANTED[reservation]) {
            stock[from] -= pieces;
            stock[to] += pieces;
        }
    }

    fn sweep(&mut self, reservation: usize) {
        if self.reservations[reservation] == Standing::Lapsed {
            self.shift(reservation, RESERVED, AVAILABLE);
            self.reservations[reservation] = Standing::Expired;
        }
    }

    fn reserve(&mut self, n: usize) -> Ret {
        match self.reservations[n] {
            Standing::Unknown | Standing::Expired if !self.has(n) => Ret::Short,
            Standing::Unknown | Standing::Expired => {
                self.shift(n, AVAILABLE, RESERVED);
                self.reservations[n] = Standing::Held;
                Ret::Held
            }
            Standing::Held | Standing::Lapsed => Ret::Held,
            Standing::Committed => Ret::Committed,
            Standing::Released => Ret::Final,
        }
    }

    fn commit(&mut self, n: usize) -> Ret {
        let from = match self.reservations[n] {
            Standing::Unknown => return Ret::Unknown,
            Standing::Released => return Ret::Final,
            Standing::Committed => return Ret::Committed,
            Standing::Expired if !self.has(n) => return Ret::Short,
            Standing::Expired => AVAILABLE,
            Standing::Held | Standing::Lapsed => RESERVED,
        };
        self.shift(n, from, SOLD);
        self.reservations[n] = Standing::Committed;
        Ret::Committed
    }

    fn release(&mut self, n: usize) -> Ret {
        match self.reservations[n] {
            Standing::Held | Standing::Lapsed => self.shift(n, RESERVED, AVAILABLE),
            Standing::Committed => self.shift(n, SOLD, AVAILABLE),
            Standing::Unknown | Standing::Expired | Standing::Released => {}
        }
        self.reservations[n] = Standing::Released;
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
                if self.reservations[n] == Standing::Held {
                    self.reservations[n] = Standing::Lapsed;
                }
                Ret::Done
            }
            Op::Sweep => {
                (0..WANTED.len()).for_each(|n| self.sweep(n));
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
