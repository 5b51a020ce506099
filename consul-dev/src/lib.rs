//! consul-dev
