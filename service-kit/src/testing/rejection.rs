//! Assertions on rejected calls.

use std::fmt::Debug;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Asserts that the call failed in the service `domain` with this code
/// and this reason; returns the details.
///
/// # Panics
/// When it did not.
#[track_caller]
pub fn refused<T: Debug>(domain: &str, result: Result<T, Status>, code: Code, reason: &str) -> ErrorDetails {
    let status = match result {
        Ok(answer) => panic!("not rejected, responded {answer:?}"),
        Err(status) => status,
    };
    assert_eq!(status.code(), code, "{status:?}");
    let details = status.get_error_details();
    let info = details.error_info().map(|info| (info.reason.as_str(), info.domain.as_str()));
    assert_eq!(info, Some((reason, domain)), "{status:?}");
    details
}

/// Asserts, like [`refused`], that exactly these fields are invalid.
///
/// # Panics
/// When it did not.
#[track_caller]
pub fn refused_fields<T: Debug>(domain: &str, result: Result<T, Status>, expected: &[&str]) {
    let details = refused(domain, result, Code::InvalidArgument, "INVALID_FIELD");
    let violations = details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
    let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, expected);
}
