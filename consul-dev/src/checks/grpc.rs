//! Checks that ask `grpc.health.v1.Health/Check`.

mod heard;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use heard::Heard;
use hyper_util::rt::TokioIo;
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tower::service_fn;

use super::{CheckSpec, tcp};

/// The server and the service on it to ask for; an empty service means the server as a whole.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// As registered, for the output.
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

    /// Asks once over a connection of its own.
    pub(super) async fn probe(self, limit: Duration) -> Result<String, String> {
        let heard = Arc::new(AtomicBool::new(false));
        match tokio::time::timeout(limit, self.ask(limit, &heard)).await {
            Ok(Ok(ServingStatus::Serving)) => Ok(format!("gRPC check {}: success", self.text)),
            Ok(Ok(other)) => Err(format!("gRPC {} serving status: {}", self.text, other.as_str_name())),
            Ok(Err(error)) => Err(error),
            Err(_) if heard.load(Ordering::Relaxed) => {
                Err(rpc_error(Code::DeadlineExceeded, "context deadline exceeded"))
            }
            Err(_) => {
                let text = "context deadline exceeded while waiting for connections to become ready";
                Err(rpc_error(Code::DeadlineExceeded, text))
            }
        }
    }

    async fn ask(&self, limit: Duration, heard: &Arc<AtomicBool>) -> Result<ServingStatus, String> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))
            .map_err(|error| rpc_error(Code::Unavailable, &format!("{}: {error}", self.address)))?;
        // tonic wraps the reason why dialling failed until it cannot be told; so it is kept aside.
        let why = Arc::new(Mutex::new(None));
        let (dial_to, reason, heard) = (self.address.clone(), Arc::clone(&why), Arc::clone(heard));
        let connector = service_fn(move |_| {
            let (address, reason, heard) = (dial_to.clone(), Arc::clone(&reason), Arc::clone(&heard));
            async move {
                let stream = tcp::dial(&address, limit).await.map_err(|error| {
                    *reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
                    io::Error::other(error)
                })?;
                Ok::<_, io::Error>(TokioIo::new(Heard::new(stream, heard)))
            }
        });
        let channel = endpoint.connect_with_connector(connector).await.map_err(|error| {
            let why = why.lock().unwrap_or_else(PoisonError::into_inner).take();
            let cause = why.unwrap_or_else(|| error.to_string());
            let text = format!("connection error: desc = \"transport: Error while dialing: {cause}\"");
            rpc_error(Code::Unavailable, &text)
        })?;
        let request = HealthCheckRequest { service: self.service.clone() };
        let answer = HealthClient::new(channel)
            .check(request)
            .await
            .map_err(|status| rpc_error(status.code(), status.message()))?;
        Ok(answer.into_inner().status())
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
