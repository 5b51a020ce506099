//! Who may call, as callers meet it.

mod behind;
mod canary;
mod forge;
mod methods;
mod tokens;
mod users;
