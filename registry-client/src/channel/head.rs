//! The head of a request, for every attempt of a call.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header};

use crate::policy::timeout;

pub(super) const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("registry-client/", env!("CARGO_PKG_VERSION")));

/// The head of a call's requests. `h2` consumes the map that it sends, and a
/// copy of the whole map for the rare second attempt would cost every call: the
/// first attempt takes the map itself, and only the fields that cannot be
/// rebuilt are kept.
#[derive(Debug)]
pub(super) struct RequestHead {
    uri: Uri,
    first: Option<HeaderMap>,
    /// The caller's metadata, and every other field that not every request has.
    extra: Vec<(HeaderName, HeaderValue)>,
}

impl RequestHead {
    #[inline]
    pub(super) fn new(uri: Uri, mut headers: HeaderMap) -> Self {
        let extra = headers
            .iter()
            .filter(|(name, value)| !is_standard(name, value))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        headers.entry(header::USER_AGENT).or_insert(USER_AGENT);
        Self { uri, first: Some(headers), extra }
    }

    /// The message encodings that the caller accepts, if it names any.
    pub(super) fn accepted_encodings(&self) -> Option<&HeaderValue> {
        self.extra.iter().find_map(|(name, value)| (*name == ACCEPT_ENCODING).then_some(value))
    }

    /// The head of the next attempt. `left` is the time that the server is
    /// given; `None` stands for the timeout that the call began with.
    #[inline]
    pub(super) fn next(&mut self, failed: u32, left: Option<Duration>) -> Request<()> {
        let mut headers = self.first.take().unwrap_or_else(|| self.rebuild(failed));
        if let Some(left) = left
            && let Ok(left) = HeaderValue::try_from(timeout::format(left))
        {
            headers.insert(TIMEOUT, left);
        }
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = headers;
        request
    }

    #[cold]
    fn rebuild(&self, failed: u32) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(self.extra.len() + 5);
        headers.insert(header::TE, TRAILERS);
        headers.insert(header::CONTENT_TYPE, GRPC);
        headers.insert(header::USER_AGENT, USER_AGENT);
        let mut overridden = Vec::new();
        for (name, value) in &self.extra {
            // A kept value replaces the standard one; a repeated one is
            // appended.
            if headers.contains_key(name) && !overridden.contains(&name) {
                headers.remove(name);
            }
            overridden.push(name);
            headers.append(name, value.clone());
        }
        headers.insert(PREVIOUS_ATTEMPTS, failed.into());
        headers
    }
}

/// The first value of `name`. Most maps have a handful of names, where a linear
/// search is cheaper than hashing.
#[inline]
pub(super) fn find<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    const FEW: usize = 8;
    if headers.len() > FEW {
        return headers.get(name);
    }
    headers.iter().find_map(|(held, value)| (held == name).then_some(value))
}

/// Returns whether `rebuild` writes this header.
fn is_standard(name: &HeaderName, value: &HeaderValue) -> bool {
    (name == header::TE && value == TRAILERS)
        || (name == header::CONTENT_TYPE && value == GRPC)
        || *name == TIMEOUT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(pairs: &[(&'static str, &'static str)]) -> RequestHead {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        RequestHead::new(Uri::from_static("http://cart/shop.cart.v1.CartService/GetCart"), headers)
    }

    fn sorted(request: &Request<()>) -> Vec<(String, String)> {
        let text = |(name, value): (&HeaderName, &HeaderValue)| {
            (name.to_string(), value.to_str().unwrap().to_owned())
        };
        let mut pairs: Vec<_> = request.headers().iter().map(text).collect();
        pairs.sort();
        pairs
    }

    #[test]
    fn a_second_attempt_has_the_first_ones_headers_and_says_that_it_is_the_second() {
        for pairs in [
            &[("te", "trailers"), ("content-type", "application/grpc")][..],
            &[("te", "trailers"), ("content-type", "application/grpc+json"), ("user-agent", "mine/1")][..],
            &[("te", "trailers"), ("content-type", "application/grpc"), ("x-tag", "a"), ("x-tag", "b")][..],
        ] {
            let mut head = head(pairs);
            let mut expected = sorted(&head.next(0, None));
            expected.push(("grpc-previous-rpc-attempts".into(), "1".into()));
            expected.sort();
            assert_eq!(sorted(&head.next(1, None)), expected);
        }
    }

    #[test]
    fn every_attempt_tells_the_server_the_time_that_it_is_given() {
        let mut first = head(&[("grpc-timeout", "15S")]);
        assert_eq!(first.next(0, None).headers()[TIMEOUT], "15S");
        assert_eq!(first.next(1, Some(Duration::from_secs(2))).headers()[TIMEOUT], "2S");
        let mut late = head(&[("grpc-timeout", "15S")]);
        assert_eq!(late.next(0, Some(Duration::from_secs(3))).headers()[TIMEOUT], "3S");
    }
}
