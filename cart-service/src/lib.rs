//! cart-service
