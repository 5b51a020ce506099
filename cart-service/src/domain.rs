//! The rules of a cart.

use service_kit::{
    currency::Currency,
    money::Money,
    timestamp::Timestamp,
    value::{CustomerId, Etag, Quantity, Sku},
};

/// The most lines of a cart.
pub const MOST_LINES: usize = 100;

/// What one customer means to buy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cart {
    /// Whose it is.
    pub customer: CustomerId,
    /// One for each product, in the order they were added.
    pub lines: Vec<Line>,
    /// Its version.
    pub etag: Etag,
    /// When it last changed; `None` when it never did.
    pub updated: Option<Timestamp>,
    /// Grows when a product that it holds was heard to change.
    pub news: i64,
}

/// A product and how many pieces of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Which product.
    pub sku: Sku,
    /// How many pieces.
    pub quantity: Quantity,
    /// The currency of its price when the customer last added to it or set its
    /// quantity.
    pub currency: Currency,
    /// That price, of one piece; `None` where it was not kept yet.
    pub price: Option<Money>,
}

/// What is to be done to a cart. A cart decides on it and a store does it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds a line, or replaces the line of its product.
    Put(Line),
    /// Removes the line of a product.
    Remove(Sku),
    /// Removes all lines.
    Clear,
}

/// Why a cart does not change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The line would hold too many pieces.
    #[error(
        "the cart holds {held} pieces of {sku} and cannot take {more} more; the most is {}",
        Quantity::MAX
    )]
    TooMany {
        /// Which product.
        sku: Sku,
        /// How many it holds.
        held: u16,
        /// How many more were asked for.
        more: u16,
    },
    /// It has no room for another product.
    #[error("the cart holds {MOST_LINES} products, which is the most; remove one first")]
    Full,
    /// Its lines would be of two currencies.
    #[error("the cart is in {held} and {sku} is sold in {other}; order or clear the cart first")]
    Mixed {
        /// Which product.
        sku: Sku,
        /// The currency of the cart.
        held: Currency,
        /// The currency of the product.
        other: Currency,
    },
    /// It does not hold the product.
    #[error("the cart does not hold {0}")]
    NotHeld(Sku),
    /// It is not the one that the caller has seen.
    #[error("the cart has changed since; read it again")]
    Stale,
}

impl Cart {
    /// The cart of who never added anything.
    #[must_use]
    pub fn empty(customer: CustomerId) -> Self {
        Self { customer, lines: Vec::new(), etag: Etag::default(), updated: None, news: 0 }
    }

    /// The line of a product.
    #[must_use]
    pub fn line(&self, sku: &Sku) -> Option<&Line> {
        self.lines.iter().find(|line| line.sku == *sku)
    }

    /// Whether there is room for a line of this product.
    ///
    /// # Errors
    /// [`Refusal::Full`].
    pub fn has_room_for(&self, sku: &Sku) -> Result<(), Refusal> {
        if self.line(sku).is_none() && self.lines.len() >= MOST_LINES { Err(Refusal::Full) } else { Ok(()) }
    }

    /// Pieces on top of those that are there, of which one costs `price` today.
    ///
    /// # Errors
    /// [`Refusal::TooMany`], [`Refusal::Full`], [`Refusal::Mixed`].
    pub fn add(&self, sku: Sku, quantity: Quantity, price: Money) -> Result<Option<Change>, Refusal> {
        self.has_room_for(&sku)?;
        let currency = price.currency();
        let other = self.lines.iter().find(|line| line.currency != currency);
        if let Some(held) = other.map(|line| line.currency) {
            return Err(Refusal::Mixed { sku, held, other: currency });
        }
        let quantity = match self.line(&sku) {
            None => quantity,
            Some(line) => match line.quantity.plus(quantity) {
                Some(sum) => sum,
                None => {
                    let (held, more) = (line.quantity.get(), quantity.get());
                    return Err(Refusal::TooMany { sku, held, more });
                }
            },
        };
        Ok(Some(Change::Put(Line { sku, quantity, currency, price: Some(price) })))
    }

    /// Exactly so many pieces, of which one costs `price` today, if that is
    /// known; no change when it holds just these at just this price.
    ///
    /// # Errors
    /// [`Refusal::NotHeld`].
    pub fn set(
        &self,
        sku: &Sku,
        quantity: Quantity,
        price: Option<Money>,
    ) -> Result<Option<Change>, Refusal> {
        let held = self.line(sku).ok_or_else(|| Refusal::NotHeld(sku.clone()))?;
        let currency = price.map_or(held.currency, Money::currency);
        let line = Line { sku: sku.clone(), quantity, currency, price: price.or(held.price) };
        Ok((line != *held).then_some(Change::Put(line)))
    }

    /// Without a product; no change when it does not hold it.
    #[must_use]
    pub fn remove(&self, sku: &Sku) -> Option<Change> {
        self.line(sku).map(|line| Change::Remove(line.sku.clone()))
    }

    /// Without anything; no change when it is empty.
    #[must_use]
    pub fn clear(&self) -> Option<Change> {
        (!self.lines.is_empty()).then_some(Change::Clear)
    }

    /// The cart after a change made at `now`.
    #[must_use]
    pub fn changed(mut self, change: &Change, now: Timestamp) -> Self {
        match change {
            Change::Put(line) => match self.lines.iter_mut().find(|held| held.sku == line.sku) {
                Some(held) => held.clone_from(line),
                None => self.lines.push(line.clone()),
            },
            Change::Remove(sku) => self.lines.retain(|line| line.sku != *sku),
            Change::Clear => self.lines.clear(),
        }
        // Where clocks differ, or were set back, time stands still.
        let updated = self.updated.map_or(now, |before| before.max(now));
        Self { etag: self.etag.next(), updated: Some(updated), ..self }
    }

    /// Decides on a change by a caller who may have said which version it has
    /// seen.
    ///
    /// A request whose answer was lost is sent again with the etag of before
    /// its first sending. When the cart is exactly one change further and
    /// already is what is asked for, that change was this one, and there is
    /// nothing left to do: the same that RFC 9110, 13.1.1, allows for
    /// `If-Match`. A price that has changed in between makes no other request
    /// of it.
    ///
    /// # Errors
    /// [`Refusal::Stale`], and whatever `decide` refuses.
    pub fn decide(
        &self,
        seen: Option<Etag>,
        decide: impl FnOnce(&Self) -> Result<Option<Change>, Refusal>,
    ) -> Result<Option<Change>, Refusal> {
        let is_current = seen.is_none_or(|seen| seen == self.etag);
        let is_next = seen.is_some_and(|seen| self.etag.follows(seen));
        match decide(self) {
            Ok(None) if is_current || is_next => Ok(None),
            Ok(Some(change)) if is_next && self.differs_in_price_only(&change) => Ok(None),
            _ if !is_current => Err(Refusal::Stale),
            decided => decided,
        }
    }

    fn differs_in_price_only(&self, change: &Change) -> bool {
        let Change::Put(line) = change else { return false };
        self.line(&line.sku).is_some_and(|held| held.quantity == line.quantity)
    }
}

#[cfg(test)]
mod tests;
