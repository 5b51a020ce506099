//! Calls that end as no gRPC server ends them.

use anyhow::{Result, ensure};
use tonic::{Code, Request, metadata::MetadataValue};

use super::{must_fail, unary};
use crate::{client::Client, proto::Empty};

/// The metadata that names the end.
const METADATA: &str = "x-interop-end";

/// The call has that code, and what comes after it on the same connection is
/// not hurt.
pub(super) async fn run(client: Client, end: &'static str, code: Code) -> Result<()> {
    unary::empty(client.clone()).await?;
    let before = client.connections()?;
    let mut request = Request::new(Empty {});
    request.metadata_mut().insert(METADATA, MetadataValue::from_static(end));
    must_fail(client.test().empty_call(request).await, code)?;
    unary::empty(client.clone()).await?;
    let after = client.connections()?;
    ensure!(before == after, "the connection was lost: {before:?}, then {after:?}");
    Ok(())
}
