//! Calls with one request and one response.

use anyhow::{Result, ensure};
use tonic::{Code, Request};

use super::must_fail;
use crate::{
    client::{Client, payload},
    proto::{Empty, SimpleRequest},
};

/// The payloads of a large call, in bytes.
pub(super) const LARGE_REQUEST: usize = 271_828;
pub(super) const LARGE_RESPONSE: i32 = 314_159;
/// The number of calls that must reach the same server.
const CALLS: usize = 100;

pub(super) async fn empty(client: Client) -> Result<()> {
    client.test().empty_call(Empty {}).await?;
    Ok(())
}

/// The request of the large calls.
pub(super) fn large_request() -> SimpleRequest {
    SimpleRequest {
        response_size: LARGE_RESPONSE,
        payload: Some(payload(LARGE_REQUEST)),
        ..SimpleRequest::default()
    }
}

pub(super) async fn large(client: Client) -> Result<()> {
    let response = client.test().unary_call(large_request()).await?.into_inner();
    let size = response.payload.unwrap_or_default().body.len();
    ensure!(i32::try_from(size)? == LARGE_RESPONSE, "the response has {size} bytes, not {LARGE_RESPONSE}");
    Ok(())
}

pub(super) async fn unimplemented_method(client: Client) -> Result<()> {
    must_fail(client.test().unimplemented_call(Empty {}).await, Code::Unimplemented)?;
    empty(client).await
}

pub(super) async fn unimplemented_service(client: Client) -> Result<()> {
    must_fail(client.unimplemented().unimplemented_call(Request::new(Empty {})).await, Code::Unimplemented)?;
    empty(client).await
}

pub(super) async fn pick_first(client: Client) -> Result<()> {
    let mut first_id: Option<String> = None;
    for n in 0..CALLS {
        let request = SimpleRequest { fill_server_id: true, response_size: 1, ..SimpleRequest::default() };
        let id = client.test().unary_call(request).await?.into_inner().server_id;
        let first = first_id.get_or_insert_with(|| id.clone());
        ensure!(*first == id, "call {n} reached `{id}`, and the first one `{first}`");
    }
    Ok(())
}
