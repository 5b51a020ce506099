//! The official cases, as our client makes them.
//!
//! What each does stands in gRPC's `doc/interop-test-descriptions.md`; names
//! and sizes are from there.

use anyhow::{Result, bail, ensure};
use futures_util::future::BoxFuture;
use tonic::{Code, Status};

use crate::client::Client;

mod compression;
mod metadata;
mod stream;
mod unary;

/// One case.
#[derive(Debug)]
pub(crate) struct Case {
    /// Its official name, or ours for one beyond them.
    pub(crate) name: &'static str,
    /// What our client does.
    pub(crate) run: fn(Client) -> BoxFuture<'static, Result<()>>,
}

macro_rules! cases {
    ($($name:literal: $run:path,)*) => {
        &[$(Case { name: $name, run: |client| Box::pin($run(client)) },)*]
    };
}

/// Every official case that needs neither TLS nor an account.
pub(crate) const OFFICIAL: &[Case] = cases! {
    "empty_unary": unary::empty,
    "large_unary": unary::large,
    "client_compressed_unary": compression::client_unary,
    "server_compressed_unary": compression::server_unary,
    "client_streaming": stream::client_streaming,
    "client_compressed_streaming": compression::client_streaming,
    "server_streaming": stream::server_streaming,
    "server_compressed_streaming": compression::server_streaming,
    "ping_pong": stream::ping_pong,
    "empty_stream": stream::empty,
    "custom_metadata": metadata::custom,
    "status_code_and_message": metadata::status,
    "special_status_message": metadata::special_message,
    "unimplemented_method": unary::unimplemented_method,
    "unimplemented_service": unary::unimplemented_service,
    "cancel_after_begin": stream::cancel_after_begin,
    "cancel_after_first_response": stream::cancel_after_first_response,
    "timeout_on_sleeping_server": stream::timeout,
    "pick_first_unary": unary::pick_first,
};

/// Official cases that are left out, and why.
pub(crate) const LEFT_OUT: &[(&str, &str)] = &[
    ("cacheable_unary", "needs a caching proxy in front of the server"),
    ("compute_engine_creds, jwt_token_creds, oauth2_auth_token, per_rpc_creds", "need a cloud account"),
    ("google_default_credentials, compute_engine_channel_credentials", "need a cloud account"),
    ("orca_per_rpc, orca_oob", "the channel reads no load reports"),
    ("rpc_soak, channel_soak", "the scenarios of `cargo xtask chaos` do that with faults"),
];

/// Fails unless the call has failed with that code.
fn must_fail<T>(result: Result<T, Status>, code: Code) -> Result<Status> {
    match result {
        Ok(_) => bail!("the call succeeded, and should have failed with {code:?}"),
        Err(status) => {
            let (is, message) = (status.code(), status.message());
            ensure!(is == code, "the call failed with {is:?} ({message}), and should have with {code:?}");
            Ok(status)
        }
    }
}
