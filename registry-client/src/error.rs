//! Errors outside of calls.

/// The reason for which the mesh could not be set up or a server not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is invalid; names it and the fix.
    #[error("{0}")]
    Config(String),
    /// The listener that a server was given cannot be used.
    #[error("the server's listener cannot be used")]
    Listener(#[source] std::io::Error),
}
