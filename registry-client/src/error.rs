//! What can go wrong outside a call.

/// Why the mesh could not be set up or a server not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting does not hold; says which and how to mend it.
    #[error("{0}")]
    Config(String),
    /// The listener that a server was given cannot be used.
    #[error("the server's listener cannot be used")]
    Listener(#[source] std::io::Error),
}
