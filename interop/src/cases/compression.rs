//! Compressed requests and responses, by gzip.
//!
//! The flags are read from the body. A stream with compressed and uncompressed
//! requests is framed by hand, because tonic compresses all messages of a
//! stream or none.

use std::io::Write;

use anyhow::{Result, ensure};
use bytes::{BufMut, BytesMut};
use flate2::{Compression, write::GzEncoder};
use futures_util::{future::BoxFuture, stream};
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prost::Message;
use tonic::{Code, body::Body, codec::CompressionEncoding::Gzip};
use tower_service::Service;

use super::{
    must_fail,
    unary::{LARGE_RESPONSE, large_request},
};
use crate::{
    client::{Client, payload},
    proto::{
        BoolValue, ResponseParameters, SimpleRequest, StreamingInputCallRequest, StreamingInputCallResponse,
        StreamingOutputCallRequest,
    },
};

const fn bool_value(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

/// Makes a call with compressed requests and responses.
pub(super) async fn both_ways(
    client: Client,
    call: fn(Client) -> BoxFuture<'static, Result<()>>,
) -> Result<()> {
    let client = client.compressing();
    call(client.clone()).await?;
    let flags = client.compressed();
    ensure!(flags.contains(&true), "no response was compressed: {flags:?}");
    Ok(())
}

/// A request with a false `expect_compressed` is refused; requests with a true
/// one are not.
pub(super) async fn client_unary(client: Client) -> Result<()> {
    let probe = SimpleRequest { expect_compressed: bool_value(true), ..large_request() };
    must_fail(client.test().unary_call(probe).await, Code::InvalidArgument)?;
    for compressed in [true, false] {
        let request = SimpleRequest { expect_compressed: bool_value(compressed), ..large_request() };
        let mut test = client.test();
        if compressed {
            test = test.send_compressed(Gzip);
        }
        let response = test.unary_call(request).await?.into_inner();
        let size = response.payload.unwrap_or_default().body.len();
        ensure!(i32::try_from(size)? == LARGE_RESPONSE, "the response has {size} bytes");
    }
    Ok(())
}

pub(super) async fn server_unary(client: Client) -> Result<()> {
    for compressed in [true, false] {
        let client = client.with_new_flags();
        let request = SimpleRequest { response_compressed: bool_value(compressed), ..large_request() };
        let response = client.test().accept_compressed(Gzip).unary_call(request).await?.into_inner();
        let size = response.payload.unwrap_or_default().body.len();
        ensure!(i32::try_from(size)? == LARGE_RESPONSE, "the response has {size} bytes");
        let flags = client.compressed();
        ensure!(
            flags == [compressed],
            "requested compressed = {compressed}, the responses' flags are {flags:?}"
        );
    }
    Ok(())
}

pub(super) async fn server_streaming(client: Client) -> Result<()> {
    let requested = [(true, 31_415), (false, 92_653)];
    let parameters = requested.map(|(compressed, size)| ResponseParameters {
        size,
        compressed: bool_value(compressed),
        ..ResponseParameters::default()
    });
    let request = StreamingOutputCallRequest {
        response_parameters: parameters.into(),
        ..StreamingOutputCallRequest::default()
    };
    let client = client.with_new_flags();
    let mut responses =
        client.test().accept_compressed(Gzip).streaming_output_call(request).await?.into_inner();
    for (_, size) in requested {
        let is = responses.message().await?.unwrap_or_default().payload.unwrap_or_default().body.len();
        ensure!(i32::try_from(is)? == size, "a response has {is} bytes, not {size}");
    }
    let (flags, expected) = (client.compressed(), requested.map(|(compressed, _)| compressed));
    ensure!(flags == expected, "the responses' flags are {flags:?}, not {expected:?}");
    Ok(())
}

pub(super) async fn client_streaming(client: Client) -> Result<()> {
    let probe =
        StreamingInputCallRequest { payload: Some(payload(27_182)), expect_compressed: bool_value(true) };
    must_fail(client.test().streaming_input_call(stream::iter([probe])).await, Code::InvalidArgument)?;

    let sizes = [(true, 27_182), (false, 45_904)];
    let frames: Vec<_> = sizes.iter().map(|&(compressed, size)| frame(compressed, size)).collect();
    let frames = frames.into_iter().collect::<Result<Vec<_>>>()?;
    let body = StreamBody::new(stream::iter(frames.into_iter().map(Ok::<_, tonic::Status>)));
    let request = Request::post("/grpc.testing.TestService/StreamingInputCall")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-encoding", "gzip")
        .body(Body::new(body))?;
    let mut client = client.with_new_flags();
    let response = client.call(request).await?;
    let body = response.into_body().collect().await?;
    let status = body.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned();
    ensure!(status.as_ref().is_some_and(|status| status == "0"), "the call ended with {status:?}");
    let message = body.to_bytes();
    ensure!(message.len() > 5, "the response has no message");
    let counted = StreamingInputCallResponse::decode(&message[5..])?.aggregated_payload_size;
    ensure!(counted == 27_182 + 45_904, "the server counted {counted} bytes");
    Ok(())
}

/// A message of that size with its prefix.
fn frame(compressed: bool, size: usize) -> Result<Frame<bytes::Bytes>> {
    let message =
        StreamingInputCallRequest { payload: Some(payload(size)), expect_compressed: bool_value(compressed) };
    let mut message = message.encode_to_vec();
    if compressed {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&message)?;
        message = encoder.finish()?;
    }
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(u8::from(compressed));
    framed.put_u32(u32::try_from(message.len())?);
    framed.put_slice(&message);
    Ok(Frame::data(framed.freeze()))
}
