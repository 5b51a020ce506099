//! The cases of our client.
//!
//! gRPC's `doc/interop-test-descriptions.md` describes the official ones; names
//! and sizes are from there.

use anyhow::{Result, bail, ensure};
use futures_util::future::BoxFuture;
use tonic::{Code, Status};

use crate::client::Client;

mod compression;
mod ends;
mod metadata;
mod stream;
mod timing;
mod unary;

/// A case and the way to run it.
#[derive(Debug)]
pub(crate) struct Case {
    /// The official name, or our own for an additional case.
    pub(crate) name: &'static str,
    pub(crate) group: Group,
    run: Run,
}

/// A group of cases that the same servers support.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// The official cases.
    Official,
    /// Deadlines that expire on both sides.
    Deadlines,
    /// Connections on which nothing happens for longer than a minute.
    Silence,
    /// Every message is compressed.
    Gzip,
    /// Targets that only other clients support.
    Targets,
    /// Calls that end in ways in which no gRPC server ends them.
    Ends,
    /// Streams that are reset, with each of HTTP/2's codes.
    Resets,
}

/// The actions of our client.
#[derive(Debug)]
enum Run {
    Call(fn(Client) -> BoxFuture<'static, Result<()>>),
    /// The official call, compressed both ways.
    Gzip(fn(Client) -> BoxFuture<'static, Result<()>>),
    /// Nothing: only other clients have the case.
    Theirs,
    /// A call that the server ends in the named way, and the code to expect.
    End(&'static str, Code),
}

impl Case {
    /// Runs the case on a client's channel.
    ///
    /// # Errors
    /// When the case failed.
    pub(crate) async fn run(&self, client: Client) -> Result<()> {
        match self.run {
            Run::Call(call) => call(client.with_new_flags()).await,
            Run::Gzip(call) => compression::both_ways(client.with_new_flags(), call).await,
            Run::Theirs => bail!("our client has no such case"),
            Run::End(end, code) => ends::run(client.with_new_flags(), end, code).await,
        }
    }

    /// True for a case that takes longer than a few seconds.
    pub(crate) fn is_long(&self) -> bool {
        self.group == Group::Silence
    }
}

macro_rules! cases {
    ($($name:literal: $group:ident, $run:ident $(($($what:expr),*))? $(by $call:path)?;)*) => {
        &[$(Case {
            name: $name,
            group: Group::$group,
            run: Run::$run $(($($what),*))? $((|client| Box::pin($call(client))))?,
        },)*]
    };
}

/// Every official case that needs neither TLS nor an account, and the
/// additional ones.
pub(crate) const ALL: &[Case] = cases! {
    "empty_unary": Official, Call by unary::empty;
    "large_unary": Official, Call by unary::large;
    "client_compressed_unary": Official, Call by compression::client_unary;
    "server_compressed_unary": Official, Call by compression::server_unary;
    "client_streaming": Official, Call by stream::client_streaming;
    "client_compressed_streaming": Official, Call by compression::client_streaming;
    "server_streaming": Official, Call by stream::server_streaming;
    "server_compressed_streaming": Official, Call by compression::server_streaming;
    "ping_pong": Official, Call by stream::ping_pong;
    "empty_stream": Official, Call by stream::empty;
    "custom_metadata": Official, Call by metadata::custom;
    "status_code_and_message": Official, Call by metadata::status;
    "special_status_message": Official, Call by metadata::special_message;
    "unimplemented_method": Official, Call by unary::unimplemented_method;
    "unimplemented_service": Official, Call by unary::unimplemented_service;
    "cancel_after_begin": Official, Call by stream::cancel_after_begin;
    "cancel_after_first_response": Official, Call by stream::cancel_after_first_response;
    "timeout_on_sleeping_server": Official, Call by stream::timeout;
    "pick_first_unary": Official, Call by unary::pick_first;

    "deadlines": Deadlines, Call by timing::deadlines;
    "deadline_race": Deadlines, Call by timing::deadline_race;
    "silent_connection": Silence, Call by timing::silence;

    "ipv4_list_target": Targets, Theirs;

    "gzip_large_unary": Gzip, Gzip by unary::large;
    "gzip_client_streaming": Gzip, Gzip by stream::client_streaming;
    "gzip_server_streaming": Gzip, Gzip by stream::server_streaming;
    "gzip_ping_pong": Gzip, Gzip by stream::ping_pong;
    "gzip_status": Gzip, Call by metadata::status;

    "http_200_page": Ends, End("page-200", Code::Unknown);
    "http_400_page": Ends, End("page-400", Code::Internal);
    "http_401_page": Ends, End("page-401", Code::Unauthenticated);
    "http_403_page": Ends, End("page-403", Code::PermissionDenied);
    "http_404_page": Ends, End("page-404", Code::Unimplemented);
    "http_429_page": Ends, End("page-429", Code::Unavailable);
    "http_431_page": Ends, End("page-431", Code::Unknown);
    "http_500_page": Ends, End("page-500", Code::Unknown);
    "http_502_page": Ends, End("page-502", Code::Unavailable);
    "http_503_page": Ends, End("page-503", Code::Unavailable);
    "http_504_page": Ends, End("page-504", Code::Unavailable);
    "reset": Ends, End("reset", Code::Internal);
    "reset_after_headers": Ends, End("reset-after-headers", Code::Internal);
    "handler_panics": Ends, End("panic", Code::Internal);
    "no_trailers": Ends, End("no-trailers", Code::Internal);
    "message_without_trailers": Ends, End("message-without-trailers", Code::Internal);
    "raw_status_message": Ends, End("raw-status-message", Code::NotFound);
    "encoded_status_message": Ends, End("encoded-status-message", Code::NotFound);
    "unknown_status_code": Ends, End("unknown-code", Code::Unknown);
    "status_is_no_number": Ends, End("no-number", Code::Unknown);
    "ok_without_message": Ends, End("no-message", Code::Internal);
    "two_messages": Ends, End("two-messages", Code::Internal);
    "malformed_message": Ends, End("malformed-message", Code::Internal);
    "flag_without_encoding": Ends, End("flag-without-encoding", Code::Internal);
    "unknown_encoding": Ends, End("unknown-encoding", Code::Internal);
    "identity_encoding": Ends, End("identity-encoding", Code::Ok);
    "content_type_with_codec": Ends, End("content-type-with-codec", Code::Ok);
    "content_type_with_parameter": Ends, End("content-type-with-parameter", Code::Ok);
    "hints_first": Ends, End("hints-first", Code::Ok);
    "status_beside_503": Ends, End("status-beside-503", Code::NotFound);
    "long_status_message": Ends, End("long-status-message", Code::NotFound);
    // Above the client's limit of metadata: the trailers count as missing.
    "endless_status_message": Ends, End("endless-status-message", Code::Unknown);
    "answered_early": Ends, Call by ends::answered_early;
    "half_a_message": Ends, End("half-a-message", Code::Internal);

    "reset_no_error": Resets, End("reset-0", Code::Internal);
    "reset_protocol_error": Resets, End("reset-1", Code::Internal);
    "reset_internal_error": Resets, End("reset-2", Code::Internal);
    "reset_flow_control_error": Resets, End("reset-3", Code::Internal);
    "reset_frame_size_error": Resets, End("reset-6", Code::Internal);
    "reset_refused_stream": Resets, End("reset-7", Code::Unavailable);
    "reset_cancel": Resets, End("reset-8", Code::Cancelled);
    "reset_compression_error": Resets, End("reset-9", Code::Internal);
    "reset_connect_error": Resets, End("reset-10", Code::Internal);
    "reset_enhance_your_calm": Resets, End("reset-11", Code::ResourceExhausted);
    "reset_inadequate_security": Resets, End("reset-12", Code::PermissionDenied);
};

/// The excluded official cases, with the reasons.
pub(crate) const EXCLUDED: &[(&str, &str)] = &[
    ("cacheable_unary", "needs a caching proxy in front of the server"),
    ("compute_engine_creds, jwt_token_creds, oauth2_auth_token, per_rpc_creds", "need a cloud account"),
    ("google_default_credentials, compute_engine_channel_credentials", "need a cloud account"),
    ("orca_per_rpc, orca_oob", "the channel reads no load reports"),
    ("rpc_soak, channel_soak", "the scenarios of `cargo xtask chaos` cover them, with faults"),
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
