//! Our server: `grpc.testing.TestService` as gRPC's description of the cases
//! requires it.

use std::{pin::Pin, time::Duration};

use anyhow::{Context, Result};
use futures_util::{Stream, StreamExt, stream};
use registry_client::{Mesh, ServerConfig, resolve::fixed::FixedResolver};
use tokio::{net::TcpListener, time::sleep};
use tonic::{Code, Request, Response, Status, Streaming, codec::CompressionEncoding::Gzip};

use crate::{
    prefixes::Flags,
    proto::{
        BoolValue, DESCRIPTORS, EchoStatus, Empty, Payload, ResponseParameters, SimpleRequest,
        SimpleResponse, StreamingInputCallRequest, StreamingInputCallResponse, StreamingOutputCallRequest,
        StreamingOutputCallResponse,
        test_service_server::{TestService, TestServiceServer},
    },
};

mod echo_layer;

/// The largest payload of a response, in bytes.
const MAX_PAYLOAD: usize = 16 << 20;
/// The largest request, in bytes; the largest of the cases is below 1 MiB.
const MAX_REQUEST: usize = 16 << 20;

/// Serves on `listener` until the future is dropped.
///
/// # Errors
/// When the server cannot start.
pub(crate) async fn run(listener: TcpListener) -> Result<()> {
    let mut serving = ServerConfig::default();
    // The cases read the flag of each message, which the server's own gzip
    // layer removes.
    serving.gzip = false;
    let mesh = Mesh::builder().resolver(FixedResolver::with([])).descriptors(DESCRIPTORS);
    let mesh = mesh.server_config(serving).build()?;
    let service = TestServiceServer::new(Interop)
        .accept_compressed(Gzip)
        .send_compressed(Gzip)
        .max_decoding_message_size(MAX_REQUEST);
    let server = mesh.serve("interop").add_service(echo_layer::EchoLayer::new(service));
    server.run(listener, std::future::pending()).await.context("the test server failed")
}

/// The test service.
#[derive(Debug)]
struct Interop;

type Responses = Pin<Box<dyn Stream<Item = Result<StreamingOutputCallResponse, Status>> + Send>>;

#[tonic::async_trait]
impl TestService for Interop {
    async fn empty_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Ok(Response::new(Empty {}))
    }

    async fn unary_call(&self, request: Request<SimpleRequest>) -> Result<Response<SimpleResponse>, Status> {
        check_request_flag(&request, 0, request.get_ref().expect_compressed)?;
        let SimpleRequest { response_size, response_compressed, response_status, fill_server_id, .. } =
            request.into_inner();
        echo(response_status)?;
        let server_id = if fill_server_id { "consort".to_owned() } else { String::new() };
        let response = SimpleResponse { payload: payload(response_size)?, server_id, ..Default::default() };
        let mut response = Response::new(response);
        if response_compressed.is_some_and(|compressed| !compressed.value) {
            response.disable_compression();
        }
        Ok(response)
    }

    async fn cacheable_unary_call(
        &self,
        request: Request<SimpleRequest>,
    ) -> Result<Response<SimpleResponse>, Status> {
        self.unary_call(request).await
    }

    type StreamingOutputCallStream = Responses;

    async fn streaming_output_call(
        &self,
        request: Request<StreamingOutputCallRequest>,
    ) -> Result<Response<Responses>, Status> {
        Ok(Response::new(Box::pin(responses(request.into_inner()))))
    }

    async fn streaming_input_call(
        &self,
        request: Request<Streaming<StreamingInputCallRequest>>,
    ) -> Result<Response<StreamingInputCallResponse>, Status> {
        let flags = request.extensions().get::<Flags>().cloned();
        let mut requests = request.into_inner();
        let (mut sum, mut n) = (0, 0);
        while let Some(request) = requests.message().await? {
            check_flag(flags.as_ref(), n, request.expect_compressed)?;
            sum += request.payload.unwrap_or_default().body.len();
            n += 1;
        }
        let aggregated_payload_size =
            i32::try_from(sum).map_err(|_| Status::out_of_range("more than 2 GiB were sent"))?;
        Ok(Response::new(StreamingInputCallResponse { aggregated_payload_size }))
    }

    type FullDuplexCallStream = Responses;

    async fn full_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let responses_to = |request| match request {
            Ok(request) => responses(request).left_stream(),
            Err(status) => one(Err(status)).right_stream(),
        };
        Ok(Response::new(Box::pin(until_error(request.into_inner().flat_map(responses_to)))))
    }

    type HalfDuplexCallStream = Responses;

    async fn half_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Responses>, Status> {
        // The requests of a case are few; more than these are refused.
        const MAX_REQUESTS: usize = 1_000;
        let mut requests = request.into_inner();
        let mut buffered = Vec::new();
        while let Some(request) = requests.message().await? {
            if buffered.len() == MAX_REQUESTS {
                return Err(Status::resource_exhausted(format!("more than {MAX_REQUESTS} requests")));
            }
            buffered.push(request);
        }
        Ok(Response::new(Box::pin(until_error(stream::iter(buffered).flat_map(responses)))))
    }

    async fn unimplemented_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented("grpc.testing.TestService/UnimplementedCall is not implemented"))
    }
}

/// The responses to one request; an error ends them.
fn responses(
    request: StreamingOutputCallRequest,
) -> impl Stream<Item = Result<StreamingOutputCallResponse, Status>> + Send {
    let failed = echo(request.response_status).err().map(Err);
    let responses = stream::iter(request.response_parameters).then(response);
    stream::iter(failed).chain(responses)
}

async fn response(parameters: ResponseParameters) -> Result<StreamingOutputCallResponse, Status> {
    let micros = u64::try_from(parameters.interval_us).unwrap_or_default();
    if micros > 0 {
        sleep(Duration::from_micros(micros)).await;
    }
    Ok(StreamingOutputCallResponse { payload: payload(parameters.size)? })
}

fn one<T>(item: T) -> impl Stream<Item = T> {
    stream::iter([item])
}

/// The stream up to and with its first error, which is the call's status.
fn until_error<T: Send>(
    items: impl Stream<Item = Result<T, Status>> + Send,
) -> impl Stream<Item = Result<T, Status>> + Send {
    items.scan(false, |failed, item| {
        let ended = std::mem::replace(failed, item.is_err());
        std::future::ready((!ended).then_some(item))
    })
}

/// Fails with the requested status, if there is one.
fn echo(requested: Option<EchoStatus>) -> Result<(), Status> {
    match requested {
        Some(EchoStatus { code, message }) if code != 0 => Err(Status::new(Code::from_i32(code), message)),
        _ => Ok(()),
    }
}

fn payload(size: i32) -> Result<Option<Payload>, Status> {
    match usize::try_from(size) {
        Ok(size) if size <= MAX_PAYLOAD => Ok(Some(Payload { body: vec![0; size], ..Default::default() })),
        _ => Err(Status::invalid_argument(format!("a payload of {size} bytes is not in 0..={MAX_PAYLOAD}"))),
    }
}

fn check_request_flag<T>(request: &Request<T>, n: usize, expected: Option<BoolValue>) -> Result<(), Status> {
    check_flag(request.extensions().get(), n, expected)
}

/// Fails when message `n` is not compressed as the request claims.
fn check_flag(flags: Option<&Flags>, n: usize, expected: Option<BoolValue>) -> Result<(), Status> {
    let Some(BoolValue { value: expected }) = expected else { return Ok(()) };
    match flags.and_then(|flags| flags.get(n)) {
        Some(compressed) if compressed == expected => Ok(()),
        Some(compressed) => Err(Status::invalid_argument(format!(
            "message {n} has the compressed flag {compressed}, and its expect_compressed is {expected}"
        ))),
        None => Err(Status::internal(format!("the flag of message {n} was not recorded"))),
    }
}
