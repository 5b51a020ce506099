//! `mesh call`: one call, with its response as JSON.

use std::io::{self, Write};

use anyhow::{Context, Result};
use registry_client::telemetry::{Attempt, Explain};
use serde_json::{Value, json};
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    cli::CallArgs,
    exit::Exit,
    method_client::{MethodClient, code_name},
};

/// Makes the call and prints the response.
///
/// # Errors
/// When the method, its data or the mesh cannot be found, or nothing can be
/// written. A failed call is printed and is [`Exit::Failed`].
pub(crate) async fn run(args: CallArgs) -> Result<Exit> {
    let client = MethodClient::new(&args.request)?;
    let request = client.method().encode(&args.request.data)?;
    let explain = Explain::default();
    let result = match client.streaming(request, args.deadline, &explain).await {
        Ok(mut responses) => loop {
            match responses.message().await {
                Ok(Some(bytes)) => {
                    let response = client.method().decode(bytes)?;
                    if !print(&response, !client.method().is_server_streaming())? {
                        return Ok(Exit::Success);
                    }
                }
                Ok(None) => break Ok(()),
                Err(status) => break Err(status),
            }
        },
        Err(status) => Err(status),
    };
    if args.explain {
        let attempts: Vec<_> = explain.attempts().iter().map(attempt).collect();
        print(&json!({ "explain": { "attempts": attempts } }), true)?;
    }
    match result {
        Ok(()) => Ok(Exit::Success),
        Err(status) => {
            io::stderr().write_all(describe(&status).as_bytes()).context("could not write")?;
            Ok(Exit::Failed)
        }
    }
}

/// Prints a JSON value; returns false once the reader has closed the pipe.
fn print(value: &Value, pretty: bool) -> Result<bool> {
    let text = if pretty { serde_json::to_string_pretty(value)? } else { value.to_string() };
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("could not write the response"),
    }
}

fn attempt(attempt: &Attempt) -> Value {
    json!({
        "instance": attempt.instance.as_str(),
        "address": attempt.address.to_string(),
        "why": attempt.why,
        "outcome": attempt.outcome,
    })
}

/// `CODE: message`, and a line for each detail that the server sent.
fn describe(status: &Status) -> String {
    let mut lines = vec![format!("{}: {}", code_name(status.code()), status.message())];
    match status.check_error_details() {
        Ok(details) => lines.extend(detail_lines(&details)),
        Err(error) => lines.push(format!("  (its details cannot be read: {error})")),
    }
    lines.join("\n") + "\n"
}

fn detail_lines(details: &ErrorDetails) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(info) = details.error_info() {
        let mut pairs: Vec<_> = info.metadata.iter().map(|(k, v)| format!(" {k}={v}")).collect();
        pairs.sort();
        lines.push(format!("  reason {} of {}{}", info.reason, info.domain, pairs.concat()));
    }
    for violation in details.bad_request().map(|b| b.field_violations.as_slice()).unwrap_or_default() {
        lines.push(format!("  field {}: {}", violation.field, violation.description));
    }
    for violation in details.precondition_failure().map(|p| p.violations.as_slice()).unwrap_or_default() {
        lines.push(format!(
            "  precondition {} of {}: {}",
            violation.r#type, violation.subject, violation.description
        ));
    }
    if let Some(resource) = details.resource_info() {
        lines.push(format!(
            "  {} {}: {}",
            resource.resource_type, resource.resource_name, resource.description
        ));
    }
    if let Some(delay) = details.retry_info().and_then(|r| r.retry_delay) {
        lines.push(format!("  retry after {delay:?}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn an_error_is_its_code_its_message_and_its_details() {
        let mut details = ErrorDetails::new();
        details
            .set_error_info("QUANTITY", "cart-service", [("most".to_owned(), "999".to_owned())])
            .add_bad_request_violation("quantity", "is not 1 to 999");
        let status = Status::with_error_details(Code::InvalidArgument, "the quantity is wrong", details);
        assert_eq!(
            describe(&status),
            "INVALID_ARGUMENT: the quantity is wrong\n  reason QUANTITY of cart-service most=999\n  field \
             quantity: is not 1 to 999\n"
        );
        assert_eq!(describe(&Status::not_found("no such cart")), "NOT_FOUND: no such cart\n");
    }
}
