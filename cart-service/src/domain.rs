//! The rules of a cart.

use service_kit::{
    currency::Currency,
    money::Money,
    timestamp::Timestamp,
    value::{CustomerId, Etag, Quantity, Sku},
};

/// The most lines of a cart.
pub const MAX_LINES: usize = 100;

/// The cart of one customer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cart {
    /// The owner.
    pub customer: CustomerId,
    /// One line for each product, in the order in which they were added.
    pub lines: Vec<Line>,
    /// The version.
    pub etag: Etag,
    /// The time of the last change, if any.
    pub updated: Option<Timestamp>,
    /// The number of changes of its products, as received in events.
    pub product_changes: i64,
}

/// A product and a number of pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The product.
    pub sku: Sku,
    /// The number of pieces.
    pub quantity: Quantity,
    /// The currency of the price when the customer last added pieces or set the
    /// quantity.
    pub currency: Currency,
    /// The price of one piece at that time; `None` in lines of the first version.
    pub price: Option<Money>,
}

/// A change of a cart. The cart decides on it and the store writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds a line, or replaces the line of its product.
    Put(Line),
    /// Removes the line of a product.
    Remove(Sku),
    /// Removes all lines.
    Clear,
}

/// The reason why a cart does not change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The line would hold too many pieces.
    #[error(
        "the cart holds {held} pieces of {sku} and cannot take {more} more; the most is {}",
        Quantity::MAX
    )]
    TooMany {
        /// The product.
        sku: Sku,
        /// The pieces in the cart.
        held: u16,
        /// The pieces to add.
        more: u16,
    },
    /// The cart has no room for another product.
    #[error("the cart holds {MAX_LINES} products, which is the most; remove one first")]
    Full,
    /// The lines would be of two currencies.
    #[error("the cart is in {held} and {sku} is sold in {other}; order or clear the cart first")]
    Mixed {
        /// The product.
        sku: Sku,
        /// The currency of the cart.
        held: Currency,
        /// The currency of the product.
        other: Currency,
    },
    /// The cart does not hold the product.
    #[error("the cart does not hold {0}")]
    NotInCart(Sku),
    /// The cart is not the version that the caller has read.
    #[error("the cart has changed since; read it again")]
    Changed,
}

impl Cart {
    /// The cart of a customer who never added anything.
    #[must_use]
    pub fn empty(customer: CustomerId) -> Self {
        Self { customer, lines: Vec::new(), etag: Etag::default(), updated: None, product_changes: 0 }
    }

    /// The line of a product.
    #[must_use]
    pub fn line(&self, sku: &Sku) -> Option<&Line> {
        self.lines.iter().find(|line| line.sku == *sku)
    }

    /// Checks that there is room for a line of this product.
    ///
    /// # Errors
    /// [`Rejection::Full`].
    pub fn check_room_for(&self, sku: &Sku) -> Result<(), Rejection> {
        if self.line(sku).is_none() && self.lines.len() >= MAX_LINES { Err(Rejection::Full) } else { Ok(()) }
    }

    /// Decides on adding pieces at the current `price`.
    ///
    /// # Errors
    /// [`Rejection::TooMany`], [`Rejection::Full`], [`Rejection::Mixed`].
    pub fn add(&self, sku: Sku, quantity: Quantity, price: Money) -> Result<Option<Change>, Rejection> {
        self.check_room_for(&sku)?;
        let currency = price.currency();
        let other = self.lines.iter().find(|line| line.currency != currency);
        if let Some(held) = other.map(|line| line.currency) {
            return Err(Rejection::Mixed { sku, held, other: currency });
        }
        let quantity = match self.line(&sku) {
            None => quantity,
            Some(line) => match line.quantity.plus(quantity) {
                Some(sum) => sum,
                None => {
                    let (held, more) = (line.quantity.get(), quantity.get());
                    return Err(Rejection::TooMany { sku, held, more });
                }
            },
        };
        Ok(Some(Change::Put(Line { sku, quantity, currency, price: Some(price) })))
    }

    /// Decides on setting the number of pieces, at the current `price` if it is known;
    /// `None` when the line has this number and price already.
    ///
    /// # Errors
    /// [`Rejection::NotInCart`].
    pub fn set(
        &self,
        sku: &Sku,
        quantity: Quantity,
        price: Option<Money>,
    ) -> Result<Option<Change>, Rejection> {
        let held = self.line(sku).ok_or_else(|| Rejection::NotInCart(sku.clone()))?;
        let currency = price.map_or(held.currency, Money::currency);
        let line = Line { sku: sku.clone(), quantity, currency, price: price.or(held.price) };
        Ok((line != *held).then_some(Change::Put(line)))
    }

    /// Decides on removing a product; `None` when the cart does not hold it.
    #[must_use]
    pub fn remove(&self, sku: &Sku) -> Option<Change> {
        self.line(sku).map(|line| Change::Remove(line.sku.clone()))
    }

    /// Decides on removing all lines; `None` when there are none.
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
        // The time never goes back, even when clocks differ.
        let updated = self.updated.map_or(now, |before| before.max(now));
        Self { etag: self.etag.next(), updated: Some(updated), ..self }
    }

    /// Decides on a change by a caller who has read the version `seen`, if any.
    ///
    /// A request whose answer was lost is repeated with the same etag. When the cart is
    /// exactly one version later and already as requested, the first attempt made that
    /// change, and nothing is left to do, as RFC 9110, 13.1.1, allows for `If-Match`. A
    /// price that changed in between does not matter.
    ///
    /// # Errors
    /// [`Rejection::Changed`], and those of `decide`.
    pub fn decide(
        &self,
        seen: Option<Etag>,
        decide: impl FnOnce(&Self) -> Result<Option<Change>, Rejection>,
    ) -> Result<Option<Change>, Rejection> {
        let is_current = seen.is_none_or(|seen| seen == self.etag);
        let is_next = seen.is_some_and(|seen| self.etag.follows(seen));
        match decide(self) {
            Ok(None) if is_current || is_next => Ok(None),
            Ok(Some(change)) if is_next && self.differs_in_price_only(&change) => Ok(None),
            _ if !is_current => Err(Rejection::Changed),
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
