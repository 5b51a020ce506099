//! The timeout of a call, from its caller, its policy and the call it is nested
//! in.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use super::super::{
    Core,
    failure::Failure,
    head::{TIMEOUT, find},
};
use crate::policy::{
    MethodPolicy,
    timeout::{self, SERVER_MARGIN},
};

/// The time that a call may take, and the part of the call that it bounds.
pub(super) struct CallTimeout {
    pub(super) timeout: Duration,
    /// True if it bounds the response's body too.
    pub(super) bounds_body: bool,
    /// The time that a server is given beyond what is left of the timeout.
    pub(super) margin: Duration,
}

impl CallTimeout {
    /// The shortest of the caller's timeout (or else the default), the method's
    /// timeout, and the time `left` of the call that the caller serves. Sets
    /// `grpc-timeout` accordingly.
    #[inline]
    pub(super) fn resolve(
        headers: &mut HeaderMap,
        core: &Core,
        policy: &MethodPolicy,
        left: Option<Duration>,
    ) -> Result<Self, Failure> {
        let requested = match find(headers, &TIMEOUT) {
            Some(given) => Some(timeout::parse(given.as_bytes()).ok_or(Failure::BadTimeout)?),
            None => None,
        };
        let imposed = shorter(policy.timeout, left);
        if requested.is_none() && imposed.is_none_or(|imposed| imposed >= core.config.deadline) {
            // A stream without a timeout may go on for ever: only the wait for
            // its head has the default one, and the request has no
            // `grpc-timeout`.
            let bounds_body = !policy.server_streaming;
            if bounds_body {
                headers.insert(TIMEOUT, core.default_timeout.clone());
            }
            return Ok(Self { timeout: core.config.deadline, bounds_body, margin: SERVER_MARGIN });
        }
        let timeout = shorter(requested, imposed).unwrap_or(core.config.deadline);
        let margin = if left == Some(timeout) { Duration::ZERO } else { SERVER_MARGIN };
        if let Ok(timeout) = HeaderValue::try_from(timeout::format(timeout.saturating_add(margin))) {
            headers.insert(TIMEOUT, timeout);
        }
        Ok(Self { timeout, bounds_body: true, margin })
    }
}

fn shorter(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}
