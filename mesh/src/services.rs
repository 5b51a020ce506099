//! The shop's services: the one table that `up`, `serve` and `status` share.

use std::fmt;

/// A service that this program can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Service {
    Product,
    Cart,
    Order,
    Payment,
    User,
}

impl Service {
    /// All of them, in the order they are shown.
    pub(crate) const ALL: [Self; 5] = [Self::Cart, Self::Order, Self::Product, Self::Payment, Self::User];

    /// The name that the service is registered under.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cart => "cart-service",
            Self::Order => "order-service",
            Self::Product => "product-service",
            Self::Payment => "payment-service",
            Self::User => "user-service",
        }
    }

    /// The service of that name.
    ///
    /// # Errors
    /// When there is none; the error names the services there are.
    pub(crate) fn named(name: &str) -> anyhow::Result<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            anyhow::anyhow!("there is no service `{name}`; there are {known}")
        })
    }

    /// The short name in flags, variables and file names.
    pub(crate) fn short_name(self) -> &'static str {
        self.name().trim_end_matches("-service")
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
