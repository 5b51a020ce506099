//! Metadata and statuses in both directions.

use anyhow::{Context, Result, ensure};
use futures_util::stream;
use tonic::{
    Code, Request,
    metadata::{MetadataMap, MetadataValue},
};

use super::{must_fail, stream::request_for};
use crate::{
    client::{Client, payload},
    proto::{EchoStatus, SimpleRequest, StreamingOutputCallRequest},
};

const INITIAL: &str = "x-grpc-test-echo-initial";
const INITIAL_VALUE: &str = "test_initial_metadata_value";
const TRAILING: &str = "x-grpc-test-echo-trailing-bin";
const TRAILING_VALUE: &[u8] = &[0x0a, 0x0b, 0x0a, 0x0b, 0x0a, 0x0b];

const MESSAGE: &str = "test status message";
const SPECIAL_MESSAGE: &str = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n";

fn with_metadata<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert(INITIAL, MetadataValue::from_static(INITIAL_VALUE));
    metadata.insert_bin(TRAILING, MetadataValue::from_bytes(TRAILING_VALUE));
    request
}

pub(super) async fn custom(client: Client) -> Result<()> {
    let message = SimpleRequest { response_size: 1, payload: Some(payload(1)), ..SimpleRequest::default() };
    let response = client.test().unary_call(with_metadata(message)).await?;
    // A unary response has its trailers among its metadata.
    check_initial(response.metadata())?;
    check_trailing(response.metadata())?;

    let requests = stream::iter([request_for(&[1], 1)]);
    let call = client.test().full_duplex_call(with_metadata(requests)).await?;
    check_initial(call.metadata())?;
    let mut responses = call.into_inner();
    while responses.message().await?.is_some() {}
    check_trailing(&responses.trailers().await?.context("the stream ended without trailers")?)
}

fn check_initial(metadata: &MetadataMap) -> Result<()> {
    let value = metadata.get(INITIAL).with_context(|| format!("no {INITIAL} in the headers"))?;
    ensure!(value == INITIAL_VALUE, "{INITIAL} came back as {value:?}");
    Ok(())
}

fn check_trailing(metadata: &MetadataMap) -> Result<()> {
    let value = metadata.get_bin(TRAILING).with_context(|| format!("no {TRAILING} in the trailers"))?;
    let value = value.to_bytes()?;
    ensure!(value == TRAILING_VALUE, "{TRAILING} came back as {value:?}");
    Ok(())
}

fn echo(message: &str) -> Option<EchoStatus> {
    Some(EchoStatus { code: Code::Unknown as i32, message: message.to_owned() })
}

async fn unary_status(client: &Client, message: &str) -> Result<()> {
    let request = SimpleRequest { response_status: echo(message), ..SimpleRequest::default() };
    let status = must_fail(client.test().unary_call(request).await, Code::Unknown)?;
    ensure!(status.message() == message, "the message came back as {:?}", status.message());
    Ok(())
}

pub(super) async fn status(client: Client) -> Result<()> {
    unary_status(&client, MESSAGE).await?;
    let request = StreamingOutputCallRequest {
        response_status: echo(MESSAGE),
        ..StreamingOutputCallRequest::default()
    };
    let result = match client.test().full_duplex_call(stream::iter([request])).await {
        Ok(call) => call.into_inner().message().await,
        Err(status) => Err(status),
    };
    let status = must_fail(result, Code::Unknown)?;
    ensure!(status.message() == MESSAGE, "the message came back as {:?}", status.message());
    Ok(())
}

pub(super) async fn special_message(client: Client) -> Result<()> {
    unary_status(&client, SPECIAL_MESSAGE).await
}
