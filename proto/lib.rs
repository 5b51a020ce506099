//! The shop's protocol, generated from `proto/`: message types, clients, servers, and
//! the descriptor set.
// Generated code follows its generator's style, not ours.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::doc_markdown,
    clippy::too_many_lines,
    clippy::use_self
)]

/// Every file of the protocol with its imports and comments, as an encoded
/// `google.protobuf.FileDescriptorSet`. Server reflection serves it; the
/// channel reads from it which methods are safe to retry.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

mod secret;
#[cfg(test)]
mod tests;

/// Types of Google's that the protocol uses.
pub mod google {
    /// Annotations that map methods to HTTP.
    pub mod api {
        include!(concat!(env!("OUT_DIR"), "/google.api.rs"));
    }
    /// Common value types.
    pub mod r#type {
        include!(concat!(env!("OUT_DIR"), "/google.r#type.rs"));
    }
}

/// The shop.
pub mod shop {
    /// Carts.
    pub mod cart {
        /// Version 1.
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/shop.cart.v1.rs"));
        }
    }
    /// Events, and how they are delivered.
    pub mod events {
        /// Version 1.
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/shop.events.v1.rs"));
        }
    }
    /// Orders.
    pub mod order {
        /// Version 1.
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/shop.order.v1.rs"));
        }
    }
    /// Payments.
    pub mod payment {
        /// Version 1.
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/shop.payment.v1.rs"));
        }
    }
    /// Products.
    pub mod product {
        /// Version 1.
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/shop.product.v1.rs"));
        }
    }
    /// Users.
    pub mod user {
        /// Version 1.
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/shop.user.v1.rs"));
        }
    }
}
