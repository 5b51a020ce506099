//! How long a call may take.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use super::super::{
    Core,
    failure::Failure,
    head::{TIMEOUT, find},
};
use crate::policy::{
    MethodPolicy,
    deadline::{self, SERVER_MARGIN},
};

/// A call's time, and what of the call has to fit into it.
pub(super) struct Limit {
    pub(super) limit: Duration,
    /// Whether it bounds the answer's body too.
    pub(super) bounds_answer: bool,
    /// How much more than what is left of it a server is given.
    pub(super) margin: Duration,
}

impl Limit {
    /// The least of what the caller asked for, or else the default, what the
    /// method's policy allows, and what is `left` of the call that the caller
    /// is answering. Sets the header that tells the server.
    #[inline]
    pub(super) fn set(
        headers: &mut HeaderMap,
        core: &Core,
        policy: &MethodPolicy,
        left: Option<Duration>,
    ) -> Result<Self, Failure> {
        let asked = match find(headers, &TIMEOUT) {
            Some(given) => Some(deadline::parse(given.as_bytes()).ok_or(Failure::BadTimeout)?),
            None => None,
        };
        let imposed = least(policy.timeout, left);
        if asked.is_none() && imposed.is_none_or(|imposed| imposed >= core.config.deadline) {
            // A stream that nobody bounded goes on as long as it likes: only the
            // wait for its head has the default limit, and the server is not told.
            let bounds_answer = !policy.streams_answer;
            if bounds_answer {
                headers.insert(TIMEOUT, core.default_timeout.clone());
            }
            return Ok(Self { limit: core.config.deadline, bounds_answer, margin: SERVER_MARGIN });
        }
        let limit = least(asked, imposed).unwrap_or(core.config.deadline);
        let margin = if left == Some(limit) { Duration::ZERO } else { SERVER_MARGIN };
        if let Ok(timeout) = HeaderValue::try_from(deadline::format(limit.saturating_add(margin))) {
            headers.insert(TIMEOUT, timeout);
        }
        Ok(Self { limit, bounds_answer: true, margin })
    }
}

fn least(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}
