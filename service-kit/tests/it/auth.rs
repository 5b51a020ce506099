//! Authentication and authorization through real calls.

mod behind;
mod canary;
mod forge;
mod methods;
mod tokens;
mod users;
