//! Checks that call `grpc.health.v1.Health/Check`.

mod first_byte;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use first_byte::FirstByteStream;
use hyper_util::rt::TokioIo;
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tower::service_fn;

use super::{CheckSpec, tcp};

/// The server and the service to check; an empty service means the whole server.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// The registered text, for the output.
    text: String,
    address: String,
    service: String,
}

impl Target {
    pub(super) fn new(spec: &CheckSpec) -> Self {
        let text = spec.grpc.clone();
        let (address, service) = text.split_once('/').unwrap_or((&text, ""));
        Self { address: address.to_owned(), service: service.to_owned(), text }
    }

    /// Makes one check on a new connection.
    pub(super) async fn probe(self, limit: Duration) -> Result<String, String> {
        let first_byte = Arc::new(AtomicBool::new(false));
        match tokio::time::timeout(limit, self.check_health(limit, &first_byte)).await {
            Ok(Ok(ServingStatus::Serving)) => Ok(format!("gRPC check {}: success", self.text)),
            Ok(Ok(other)) => Err(format!("gRPC {} serving status: {}", self.text, other.as_str_name())),
            Ok(Err(error)) => Err(error),
            Err(_) if first_byte.load(Ordering::Relaxed) => {
                Err(rpc_error(Code::DeadlineExceeded, "context deadline exceeded"))
            }
            Err(_) => {
                let text = "context deadline exceeded while waiting for connections to become ready";
                Err(rpc_error(Code::DeadlineExceeded, text))
            }
        }
    }

    async fn check_health(
        &self,
        limit: Duration,
        first_byte: &Arc<AtomicBool>,
    ) -> Result<ServingStatus, String> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))
            .map_err(|error| rpc_error(Code::Unavailable, &format!("{}: {error}", self.address)))?;
        // tonic hides the cause of a failed connection, so it is kept here.
        let dial_failure = Arc::new(Mutex::new(None));
        let (dial_to, reason, first_byte) =
            (self.address.clone(), Arc::clone(&dial_failure), Arc::clone(first_byte));
        let connector = service_fn(move |_| {
            let (address, reason, first_byte) =
                (dial_to.clone(), Arc::clone(&reason), Arc::clone(&first_byte));
            async move {
                let stream = tcp::dial(&address, limit).await.map_err(|error| {
                    *reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
                    io::Error::other(error)
                })?;
                Ok::<_, io::Error>(TokioIo::new(FirstByteStream::new(stream, first_byte)))
            }
        });
        let channel = endpoint.connect_with_connector(connector).await.map_err(|error| {
            let failure = dial_failure.lock().unwrap_or_else(PoisonError::into_inner).take();
            let cause = failure.unwrap_or_else(|| error.to_string());
            let text = format!("connection error: desc = \"transport: Error while dialing: {cause}\"");
            rpc_error(Code::Unavailable, &text)
        })?;
        let request = HealthCheckRequest { service: self.service.clone() };
        let response = HealthClient::new(channel)
            .check(request)
            .await
            .map_err(|status| rpc_error(status.code(), status.message()))?;
        Ok(response.into_inner().status())
    }
}

/// An error as Go prints it.
fn rpc_error(code: Code, text: &str) -> String {
    let name = match code {
        Code::Cancelled => "Canceled".to_owned(),
        other => format!("{other:?}"),
    };
    format!("rpc error: code = {name} desc = {text}")
}
