//! Checks that ask `grpc.health.v1.Health/Check`.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
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
        match tokio::time::timeout(limit, self.ask(limit)).await {
            Ok(Ok(ServingStatus::Serving)) => Ok(format!("gRPC check {}: success", self.text)),
            Ok(Ok(other)) => Err(format!("gRPC {} serving status: {}", self.text, other.as_str_name())),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(rpc_error(Code::DeadlineExceeded, "context deadline exceeded")),
        }
    }

    async fn ask(&self, limit: Duration) -> Result<ServingStatus, String> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))
            .map_err(|error| rpc_error(Code::Unavailable, &format!("{}: {error}", self.address)))?;
        // tonic wraps the reason why dialling failed until it cannot be told; so it is kept aside.
        let why = Arc::new(Mutex::new(None));
        let (dial_to, reason) = (self.address.clone(), Arc::clone(&why));
        let connector = service_fn(move |_| {
            let (address, reason) = (dial_to.clone(), Arc::clone(&reason));
            async move {
                let stream = tcp::dial(&address, limit).await.map_err(|error| {
                    *reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
                    io::Error::other(error)
                })?;
                Ok::<_, io::Error>(TokioIo::new(stream))
            }
        });
        let channel = endpoint.connect_with_connector(connector).await.map_err(|error| {
            let why = why.lock().unwrap_or_else(PoisonError::into_inner).take();
            let cause = why.unwrap_or_else(|| error.to_string());
            let text = format!("connection error: desc = \"transport: Error while dialing: {cause}\"");
            rpc_error(Code::Unavailable, &text)
        })?;
        let request = HealthCheckRequest { service: self.service.clone() };
        let answer = HealthClient::new(channel).check(request).await.map_err(|status| go_text(&status))?;
        Ok(answer.into_inner().status())
    }
}

/// A status as Go prints it.
fn go_text(status: &Status) -> String {
    match status.code() {
        // Go fills in what a server leaves out of a trailers-only answer.
        Code::Unimplemented if status.message().is_empty() => {
            rpc_error(Code::Unimplemented, "unexpected HTTP status code received from server: 200 (OK)")
        }
        code => rpc_error(code, status.message()),
    }
}

fn rpc_error(code: Code, text: &str) -> String {
    let name = match code {
        Code::Cancelled => "Canceled".to_owned(),
        other => format!("{other:?}"),
    };
    format!("rpc error: code = {name} desc = {text}")
}
