//! Calls that end in ways in which no gRPC server ends them.

use anyhow::{Context, Result, ensure};
use futures_util::stream;
use tonic::{Code, Request, metadata::MetadataValue};

use super::{must_fail, unary};
use crate::{client::Client, proto::Empty};

/// The metadata that selects the end.
const METADATA: &str = "x-interop-end";

/// The call has that code, and later calls on the same connection succeed.
pub(super) async fn run(client: Client, end: &'static str, code: Code) -> Result<()> {
    unary::empty(client.clone()).await?;
    let before = client.connections()?;
    let mut request = Request::new(Empty {});
    request.metadata_mut().insert(METADATA, MetadataValue::from_static(end));
    let ended = client.test().empty_call(request).await;
    match code {
        Code::Ok => drop(ended?),
        code => drop(must_fail(ended, code)?),
    }
    unary::empty(client.clone()).await?;
    let after = client.connections()?;
    ensure!(before == after, "the connection was lost: {before:?}, then {after:?}");
    Ok(())
}

/// A response that arrives before the end of the requests counts, although
/// `RST_STREAM` follows.
pub(super) async fn answered_early(client: Client) -> Result<()> {
    let call = client.test().streaming_input_call(stream::pending()).await;
    call.context("the response was lost")?;
    unary::empty(client).await
}
