//! Streams in one and in both directions, also cancelled and timed out.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::stream;
use tokio::{sync::mpsc, time};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Streaming};

use super::{must_fail, unary};
use crate::{
    client::{Client, payload},
    proto::{
        ResponseParameters, StreamingInputCallRequest, StreamingOutputCallRequest,
        StreamingOutputCallResponse,
    },
};

const REQUESTS: [usize; 4] = [27_182, 8, 1_828, 45_904];
const RESPONSES: [i32; 4] = [31_415, 9, 2_653, 58_979];
/// The time limit of a response without a delay.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn client_streaming(client: Client) -> Result<()> {
    let request = |size| StreamingInputCallRequest { payload: Some(payload(size)), expect_compressed: None };
    let requests = stream::iter(REQUESTS.map(request));
    let response = client.test().streaming_input_call(requests).await?.into_inner();
    let sum: usize = REQUESTS.iter().sum();
    let is = response.aggregated_payload_size;
    ensure!(usize::try_from(is)? == sum, "the server counted {is} bytes, not {sum}");
    Ok(())
}

/// A request for responses of these sizes.
pub(super) fn request_for(sizes: &[i32], payload_size: usize) -> StreamingOutputCallRequest {
    let parameters = |&size: &i32| ResponseParameters { size, ..ResponseParameters::default() };
    StreamingOutputCallRequest {
        response_parameters: sizes.iter().map(parameters).collect(),
        payload: Some(payload(payload_size)),
        ..StreamingOutputCallRequest::default()
    }
}

pub(super) async fn server_streaming(client: Client) -> Result<()> {
    let mut responses = client.test().streaming_output_call(request_for(&RESPONSES, 0)).await?.into_inner();
    for size in RESPONSES {
        expect(&mut responses, size).await?;
    }
    expect_end(&mut responses).await
}

pub(super) async fn ping_pong(client: Client) -> Result<()> {
    let (sender, requests) = mpsc::channel(1);
    sender.send(request_for(&RESPONSES[..1], REQUESTS[0])).await?;
    let call = client.test().full_duplex_call(ReceiverStream::new(requests)).await?;
    let mut responses = call.into_inner();
    expect(&mut responses, RESPONSES[0]).await?;
    for (request, response) in REQUESTS.into_iter().zip(RESPONSES).skip(1) {
        sender.send(request_for(&[response], request)).await?;
        expect(&mut responses, response).await?;
    }
    drop(sender);
    expect_end(&mut responses).await
}

pub(super) async fn empty(client: Client) -> Result<()> {
    let call = client.test().full_duplex_call(stream::empty()).await?;
    expect_end(&mut call.into_inner()).await
}

/// In Rust, dropping a call cancels it. The case checks that the call did not
/// end by itself and that the connection stays open.
pub(super) async fn cancel_after_begin(client: Client) -> Result<()> {
    let (sender, requests) = mpsc::channel::<StreamingInputCallRequest>(1);
    let before = client.connections()?;
    let mut test = client.test();
    let call = test.streaming_input_call(ReceiverStream::new(requests));
    let ended = time::timeout(Duration::from_millis(100), call).await;
    ensure!(ended.is_err(), "the call ended before it was cancelled: {ended:?}");
    drop(sender);
    unary::empty(client.clone()).await?;
    same_connection(&client, before.lost)
}

pub(super) async fn cancel_after_first_response(client: Client) -> Result<()> {
    let (sender, requests) = mpsc::channel(1);
    let before = client.connections()?;
    sender.send(request_for(&RESPONSES[..1], REQUESTS[0])).await?;
    let call = client.test().full_duplex_call(ReceiverStream::new(requests)).await?;
    let mut responses = call.into_inner();
    expect(&mut responses, RESPONSES[0]).await?;
    drop(responses);
    // The cancellation also ends the requests.
    time::timeout(RESPONSE_TIMEOUT, sender.closed())
        .await
        .context("the requests did not end with the call")?;
    unary::empty(client.clone()).await?;
    same_connection(&client, before.lost)
}

pub(super) async fn timeout(client: Client) -> Result<()> {
    let deadline = Duration::from_millis(1);
    let (sender, requests) = mpsc::channel(1);
    sender.send(request_for(&[], REQUESTS[0])).await?;
    let mut request = Request::new(ReceiverStream::new(requests));
    request.set_timeout(deadline);
    let result = match client.test().full_duplex_call(request).await {
        Ok(call) => {
            time::timeout(RESPONSE_TIMEOUT, call.into_inner().message()).await.with_context(|| {
                format!("a call with the deadline {deadline:?} did not end within {RESPONSE_TIMEOUT:?}")
            })?
        }
        Err(status) => Err(status),
    };
    must_fail(result, Code::DeadlineExceeded)?;
    unary::empty(client).await
}

async fn expect(responses: &mut Streaming<StreamingOutputCallResponse>, size: i32) -> Result<()> {
    let message = next(responses).await?;
    let Some(message) = message else { bail!("the stream ended before a response of {size} bytes") };
    let is = message.payload.unwrap_or_default().body.len();
    ensure!(i32::try_from(is)? == size, "a response has {is} bytes, not {size}");
    Ok(())
}

async fn expect_end(responses: &mut Streaming<StreamingOutputCallResponse>) -> Result<()> {
    let message = next(responses).await?;
    ensure!(message.is_none(), "the stream continues after its last response");
    Ok(())
}

async fn next(
    responses: &mut Streaming<StreamingOutputCallResponse>,
) -> Result<Option<StreamingOutputCallResponse>> {
    let message = time::timeout(RESPONSE_TIMEOUT, responses.message()).await;
    Ok(message.with_context(|| format!("no response within {RESPONSE_TIMEOUT:?}"))??)
}

fn same_connection(client: &Client, lost_before: u64) -> Result<()> {
    let lost = client.connections()?.lost - lost_before;
    ensure!(lost == 0, "cancelling lost {lost} connections");
    Ok(())
}
