//! The errors that callers see.
//!
//! A service's own error type has the cause; here it becomes a status, always with
//! `google.rpc.ErrorInfo`.

use std::{fmt, time::Duration};

use tonic::{Code, Status, metadata::MetadataValue};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};
use tracing::{error, warn};

/// The maximum number of field violations in a status. Details are sent in a
/// header, which peers limit to a few KiB.
const MAX_VIOLATIONS: usize = 16;

/// A failure as a caller sees it: code, message, and a machine-readable reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    code: Code,
    reason: &'static str,
    message: String,
    metadata: Vec<(&'static str, String)>,
    violations: Vec<(String, String)>,
    retry_in: Option<Duration>,
    /// Asks the caller not to retry, because this service has retried already.
    is_final: bool,
}

/// gRFC A6: a negative value asks the caller not to retry.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

impl Fault {
    /// A failure with its code, its reason in `UPPER_SNAKE_CASE`, and a message for
    /// people that shows no internal cause.
    #[must_use]
    pub fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            code,
            reason,
            message,
            metadata: Vec::new(),
            violations: Vec::new(),
            retry_in: None,
            is_final: false,
        }
    }

    /// Adds a pair to `ErrorInfo.metadata`, such as the SKU that is missing.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.metadata.push((key, value.to_string()));
        self
    }

    /// Adds a violation of a field of the request.
    #[must_use]
    pub fn field(mut self, path: impl Into<String>, why: impl Into<String>) -> Self {
        self.violations.push((path.into(), why.into()));
        self
    }

    /// Adds a retry delay, as `google.rpc.RetryInfo`.
    #[must_use]
    pub fn retry_in(mut self, wait: Duration) -> Self {
        self.retry_in = Some(wait);
        self
    }

    /// The code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// The status, with `domain`, the service's name, in its details.
    #[must_use]
    pub fn into_status(self, domain: &'static str) -> Status {
        let metadata = self.metadata.into_iter().map(|(key, value)| (key.to_owned(), value));
        let mut details = ErrorDetails::with_error_info(
            self.reason,
            domain,
            metadata.collect::<std::collections::HashMap<_, _>>(),
        );
        if !self.violations.is_empty() {
            let violation = |(field, why): (String, String)| FieldViolation::new(field, why);
            details.set_bad_request(self.violations.into_iter().map(violation).collect::<Vec<_>>());
        }
        if self.retry_in.is_some() {
            details.set_retry_info(self.retry_in);
        }
        let mut status = Status::with_error_details(self.code, self.message, details);
        if self.is_final {
            status.metadata_mut().insert(PUSHBACK, MetadataValue::from_static("-1"));
        }
        status
    }
}

/// The parser of a request's fields, which collects all invalid ones for one
/// error.
///
/// ```
/// # use service_kit::{error::{Fault, Fields}, value::{CustomerId, Quantity}};
/// fn parse(customer: &str, quantity: i32) -> Result<(CustomerId, Quantity), Fault> {
///     let mut fields = Fields::default();
///     let customer = fields.take("customer_id", CustomerId::parse(customer));
///     let quantity = fields.take("quantity", Quantity::parse(quantity));
///     customer.zip(quantity).ok_or_else(|| fields.fault())
/// }
/// assert!(parse("ada", 1).is_ok());
/// assert!(parse("", 1_000).is_err());
/// ```
#[derive(Debug, Default)]
pub struct Fields {
    invalid: Vec<(String, String)>,
    /// The number of further invalid fields.
    more: usize,
}

impl Fields {
    /// Takes the value of a field, or records the error and returns `None`. `path`
    /// is the field's name in the protocol.
    pub fn take<T, E: fmt::Display>(&mut self, path: impl Into<String>, parsed: Result<T, E>) -> Option<T> {
        match parsed {
            Ok(value) => Some(value),
            Err(why) if self.invalid.len() < MAX_VIOLATIONS => {
                self.invalid.push((path.into(), why.to_string()));
                None
            }
            Err(_) => {
                self.more += 1;
                None
            }
        }
    }

    /// `INVALID_ARGUMENT` with all invalid fields.
    #[must_use]
    pub fn fault(self) -> Fault {
        let named: Vec<_> = self.invalid.iter().map(|(path, why)| format!("{path}: {why}")).collect();
        let mut message = named.join("; ");
        if self.more > 0 {
            message = format!("{message}; and {} more", self.more);
        }
        let fault = Fault::new(Code::InvalidArgument, "INVALID_FIELD", message);
        Fault { violations: self.invalid, ..fault }
    }
}

/// `INVALID_ARGUMENT` because of one field.
#[must_use]
pub fn invalid(path: impl Into<String>, why: impl fmt::Display) -> Fault {
    let mut fields = Fields::default();
    fields.take::<(), _>(path, Err(why));
    fields.fault()
}

/// INTERNAL. Logs the cause, which the caller does not see.
#[must_use]
pub fn internal(cause: &dyn fmt::Display) -> Fault {
    error!(%cause, "a call failed with an internal error: {cause}");
    Fault::new(Code::Internal, "INTERNAL", "internal error; see the log of the service for the cause")
}

/// The fault for a failure of `service`, which this one depends on. Logs the
/// cause.
///
/// Transient codes stay: UNAVAILABLE, `DEADLINE_EXCEEDED` and CANCELLED. All
/// others, such as that of an invalid request, are internal errors of this
/// service.
#[must_use]
pub fn downstream(service: &'static str, status: &Status) -> Fault {
    let (code, reason, words) = match status.code() {
        Code::Unavailable | Code::ResourceExhausted | Code::Aborted => {
            (Code::Unavailable, "DEPENDENCY_UNAVAILABLE", "is not available right now; try again")
        }
        Code::DeadlineExceeded => {
            (Code::DeadlineExceeded, "DEPENDENCY_SLOW", "did not respond in time; try again")
        }
        Code::Cancelled => (Code::Cancelled, "CANCELLED", "did not respond before the call was cancelled"),
        _ => return internal(&format_args!("{service} returned {:?}: {}", status.code(), status.message())),
    };
    let (code_seen, cause) = (status.code(), status.message());
    warn!(dependency = service, code = ?code_seen, cause, "a call to {service} failed: {code_seen:?}: {cause}");
    let fault = Fault::new(code, reason, format!("{service} {words}")).with("dependency", service);
    let pushback = status.metadata().get(PUSHBACK).and_then(|value| value.to_str().ok());
    // This service has retried already; retries of its caller would multiply the load.
    Fault { is_final: pushback.is_some_and(|value| value.starts_with('-')), ..fault }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_reason_domain_metadata_and_invalid_fields() {
        let mut fields = Fields::default();
        assert_eq!(fields.take("quantity", "5".parse::<u8>()), Some(5));
        fields.take::<(), _>("quantity", Err("must be 1 to 999"));
        let status = fields.fault().with("held", 3).into_status("cart-service");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "quantity: must be 1 to 999");
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("INVALID_FIELD", "cart-service"));
        assert_eq!(info.metadata["held"], "3");
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "quantity");
    }

    #[test]
    fn a_status_carries_a_retry_delay_where_that_is_known() {
        let fault = Fault::new(Code::Aborted, "STILL_RUNNING", "it is under way");
        let retry = |fault: Fault| fault.into_status("x").get_details_retry_info();
        assert!(retry(fault.clone()).is_none());
        let wait = Duration::from_millis(1_500);
        assert_eq!(retry(fault.retry_in(wait)).unwrap().retry_delay, Some(wait));
    }

    #[test]
    fn a_flood_of_invalid_fields_stays_small() {
        let mut fields = Fields::default();
        for n in 0..1_000 {
            fields.take::<(), _>(format!("ids[{n}]"), Err("bad"));
        }
        let status = fields.fault().into_status("x");
        assert!(status.message().ends_with("and 984 more"));
        assert!(status.details().len() < 4_096);
    }

    #[test]
    fn a_dependency_whose_retries_are_used_up_is_not_retried_by_the_caller_either() {
        for (said, expected) in [(None, None), (Some("250"), None), (Some("-1"), Some("-1"))] {
            let mut failed = Status::unavailable("down");
            if let Some(said) = said {
                failed.metadata_mut().insert(PUSHBACK, said.parse().unwrap());
            }
            let status = downstream("y", &failed).into_status("x");
            assert_eq!(status.metadata().get(PUSHBACK).map(|value| value.to_str().unwrap()), expected);
        }
    }

    #[test]
    fn an_internal_cause_is_not_shown() {
        let status = internal(&"secret").into_status("x");
        assert!(!format!("{status:?}").contains("secret"));
        let status = downstream("y", &Status::not_found("secret")).into_status("x");
        assert_eq!(status.code(), Code::Internal);
        assert!(!format!("{status:?}").contains("secret"));
        assert_eq!(downstream("y", &Status::unavailable("secret")).code(), Code::Unavailable);
    }
}
