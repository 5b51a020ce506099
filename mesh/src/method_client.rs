//! Calls to one method through the mesh's own channel, for `load` and `call`.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::uri::PathAndQuery;
use registry_client::{Channel, telemetry::Explain};
use tonic::{
    Code, Request, Response, Status, Streaming,
    client::Grpc,
    metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap},
};

use crate::{
    cli::RequestArgs,
    discover::RunningMesh,
    dynamic::{BytesCodec, Method},
};

/// A method, the channel to its service, and the metadata of each call.
#[derive(Clone, Debug)]
pub(crate) struct MethodClient {
    method: Method,
    metadata: MetadataMap,
    channel: Channel,
}

impl MethodClient {
    /// The client for the method on the command line. The channel begins to
    /// connect, so this needs a runtime.
    ///
    /// # Errors
    /// When there is no such method, no mesh, or the metadata is malformed.
    pub(crate) fn new(args: &RequestArgs) -> Result<Self> {
        let method = Method::find(&args.method)?;
        let service = args.service.clone().unwrap_or_else(|| method.service_name());
        let mut metadata = MetadataMap::new();
        for (key, value) in &args.metadata {
            metadata.append(name(key)?, text(key, value)?);
        }
        let channel = RunningMesh::find(&args.location)?.mesh()?.channel(&service);
        Ok(Self { method, metadata, channel })
    }

    /// A client for `method` on `channel`.
    pub(crate) fn through(channel: Channel, method: Method) -> Self {
        Self { method, metadata: MetadataMap::new(), channel }
    }

    pub(crate) fn method(&self) -> &Method {
        &self.method
    }

    /// Waits until an instance is found and connected, by checking its health.
    ///
    /// # Errors
    /// When no instance is available within `timeout`; the status says why.
    pub(crate) async fn wait_for_instance(&self, timeout: Duration) -> Result<(), Status> {
        let mut request = Request::new(Bytes::new());
        request.set_timeout(timeout);
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await?;
        match grpc.unary(request, PathAndQuery::from_static("/grpc.health.v1.Health/Check"), BytesCodec).await
        {
            // An instance without a health service is available nevertheless.
            Err(status) if !matches!(status.code(), Code::Unimplemented | Code::NotFound) => Err(status),
            _ => Ok(()),
        }
    }

    /// Makes one unary call with an encoded request, within `deadline`.
    pub(crate) async fn unary(&self, message: Bytes, deadline: Duration) -> CallOutcome {
        let explain = Explain::default();
        let request = self.request(message, Some(deadline), &explain);
        let mut grpc = Grpc::new(self.channel.clone());
        let response = match grpc.ready().await {
            Ok(()) => grpc.unary(request, self.method.path(), BytesCodec).await,
            Err(status) => Err(status),
        };
        CallOutcome::new(response.map(Response::into_inner), &explain)
    }

    /// Makes one call, unary or streaming, and returns its messages as a
    /// stream.
    ///
    /// # Errors
    /// The status that the call ended with before the first message.
    pub(crate) async fn streaming(
        &self,
        message: Bytes,
        deadline: Option<Duration>,
        explain: &Explain,
    ) -> Result<Streaming<Bytes>, Status> {
        let request = self.request(message, deadline, explain);
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await?;
        let response = grpc.server_streaming(request, self.method.path(), BytesCodec).await?;
        Ok(response.into_inner())
    }

    fn request(&self, message: Bytes, deadline: Option<Duration>, explain: &Explain) -> Request<Bytes> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.metadata.clone();
        if let Some(deadline) = deadline {
            request.set_timeout(deadline);
        }
        request.extensions_mut().insert(explain.clone());
        request
    }
}

/// The outcome of a unary call.
#[derive(Debug)]
pub(crate) struct CallOutcome {
    code: Code,
    /// The instance that responded.
    pub(crate) endpoint: Option<String>,
    /// The number of attempts.
    pub(crate) attempts: u32,
    /// The message of a failed call.
    pub(crate) message: Option<Box<str>>,
}

impl CallOutcome {
    fn new(response: Result<Bytes, Status>, explain: &Explain) -> Self {
        let (code, message) = match response {
            Ok(_) => (Code::Ok, None),
            Err(status) => (status.code(), Some(status.message().into())),
        };
        let attempts = explain.attempts();
        let last = attempts.last();
        Self {
            code,
            endpoint: last.filter(|a| a.answered).map(|a| a.instance.to_string()),
            attempts: u32::try_from(attempts.len()).unwrap_or(u32::MAX),
            message,
        }
    }

    /// A call that failed before it was sent.
    pub(crate) fn not_sent(code: Code, why: &str) -> Self {
        Self { code, endpoint: None, attempts: 0, message: Some(why.into()) }
    }

    /// The code as it is written in gRPC's documents.
    pub(crate) fn code_name(&self) -> &'static str {
        code_name(self.code)
    }
}

/// A code as it is written in gRPC's documents, such as `NOT_FOUND`.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

fn name(key: &str) -> Result<AsciiMetadataKey> {
    AsciiMetadataKey::from_bytes(key.as_bytes())
        .ok()
        .with_context(|| format!("--metadata: `{key}` is not the name of text metadata"))
}

fn text(key: &str, value: &str) -> Result<AsciiMetadataValue> {
    value.parse().ok().with_context(|| format!("--metadata: the value of `{key}` is not printable ASCII"))
}
