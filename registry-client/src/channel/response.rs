//! The validation of response heads and trailers.
//!
//! tonic misreads some of what peers send: a page of HTML as messages, a
//! message that is not UTF-8 as no status at all. Malformed responses are
//! detected here, once, so that the channel acts on the same code that the
//! caller gets.

use std::borrow::Cow;

use base64::{
    Engine as _,
    engine::{
        DecodePaddingMode,
        general_purpose::{GeneralPurpose, GeneralPurposeConfig},
    },
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode, percent_encode};

use super::{
    failure::{Failure, ResponseFault},
    head::find,
    peer::Peer,
};
use crate::code::Code;

pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
const GRPC: &[u8] = b"application/grpc";

/// The bytes that `grpc-message` encodes as `%XX` ("gRPC over HTTP/2",
/// Status-Message).
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

/// Base64 with or without padding, as tonic decodes it.
const AS_TONIC_READS: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The kind of a response, by its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResponseHead {
    /// A status without messages ("Trailers-Only").
    Status(Code),
    /// Messages follow, which may be compressed or not.
    Messages { compressed: bool },
}

/// Validates the head of a response of `from` to a request that accepts the
/// message encodings `accepted` (`grpc-accept-encoding`).
///
/// # Errors
/// [`Failure::NotGrpc`] or [`Failure::Malformed`].
#[inline]
pub(super) fn validate_head<T>(
    head: &Response<T>,
    from: &Peer,
    accepted: Option<&HeaderValue>,
) -> Result<ResponseHead, Failure> {
    let (mut content_type, mut encoding) = (None, None);
    for (name, value) in head.headers() {
        if name == CONTENT_TYPE {
            content_type = content_type.or(Some(value));
        } else if *name == GRPC_STATUS {
            return Ok(ResponseHead::Status(Code::from_header(value.as_bytes())));
        } else if *name == GRPC_ENCODING {
            encoding = encoding.or(Some(value));
        }
    }
    let content_type = content_type.map(HeaderValue::as_bytes);
    if head.status() != StatusCode::OK || !content_type.is_some_and(is_grpc) {
        return Err(Failure::not_grpc(from, head.status(), content_type));
    }
    let Some(encoding) = encoding.map(HeaderValue::as_bytes).filter(|encoding| *encoding != b"identity")
    else {
        return Ok(ResponseHead::Messages { compressed: false });
    };
    let mut accepted = accepted.map(HeaderValue::as_bytes).unwrap_or_default().split(|byte| *byte == b',');
    if accepted.any(|one| one.trim_ascii() == encoding) {
        return Ok(ResponseHead::Messages { compressed: true });
    }
    let fault = ResponseFault::Encoding(String::from_utf8_lossy(encoding).chars().take(32).collect());
    Err(Failure::Malformed { to: from.clone(), fault })
}

/// `application/grpc`, alone or with a suffix (`+proto`) or parameters.
fn is_grpc(content_type: &[u8]) -> bool {
    if content_type == GRPC {
        return true;
    }
    content_type.split_at_checked(GRPC.len()).is_some_and(|(name, rest)| {
        name.eq_ignore_ascii_case(GRPC) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
    })
}

/// The status code in trailers or in a head.
#[inline]
pub(super) fn status_of(headers: &HeaderMap) -> Option<Code> {
    find(headers, &GRPC_STATUS).map(|code| Code::from_header(code.as_bytes()))
}

/// Repairs the fields of a status that would make tonic panic or lose the
/// status: details that are not base64, a message that is not UTF-8.
pub(super) fn repair_status(headers: &mut HeaderMap) {
    // A success has only its status: nothing to repair.
    if headers.len() <= 1 {
        return;
    }
    if headers.get(DETAILS).is_some_and(|details| AS_TONIC_READS.decode(details.as_bytes()).is_err()) {
        headers.remove(DETAILS);
    }
    if let Some(repaired) = headers.get(GRPC_MESSAGE).and_then(repaired_message) {
        headers.insert(GRPC_MESSAGE, repaired);
    }
}

/// The message with invalid UTF-8 replaced; `None` when all of it is valid.
fn repaired_message(message: &HeaderValue) -> Option<HeaderValue> {
    let decoded: Cow<'_, [u8]> = percent_decode(message.as_bytes()).into();
    match String::from_utf8_lossy(&decoded) {
        Cow::Borrowed(_) => None,
        Cow::Owned(text) => {
            let encoded = percent_encode(text.as_bytes(), ENCODED).to_string();
            HeaderValue::try_from(encoded).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    fn peer() -> Peer {
        Peer { id: crate::instance::InstanceId::new("web-1"), address: "127.0.0.1:1".parse().unwrap() }
    }

    fn head(status: u16, headers: &[(&'static str, &'static str)]) -> Response<()> {
        let mut head = Response::new(());
        *head.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in headers {
            head.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        head
    }

    #[test]
    fn every_head_is_a_status_messages_or_a_failure_with_a_code_and_words() {
        const TYPE: (&str, &str) = ("content-type", "application/grpc");
        const HTML: (&str, &str) = ("content-type", "text/html; charset=utf-8");
        let messages = |compressed| Ok(ResponseHead::Messages { compressed });
        let status = |n| Ok(ResponseHead::Status(Code::from_number(n)));
        type Case = (
            u16,
            &'static [(&'static str, &'static str)],
            Result<ResponseHead, (&'static str, &'static str)>,
        );
        let cases: &[Case] = &[
            (200, &[TYPE], messages(false)),
            (200, &[("content-type", "application/grpc+proto")], messages(false)),
            (200, &[("content-type", "Application/gRPC; charset=utf-8")], messages(false)),
            (200, &[TYPE, ("grpc-encoding", "identity")], messages(false)),
            (200, &[TYPE, ("grpc-encoding", "gzip")], messages(true)),
            (200, &[TYPE, ("grpc-encoding", "br")], Err(("INTERNAL", "grpc-encoding `br`"))),
            (200, &[TYPE, ("grpc-status", "5")], status(5)),
            (200, &[TYPE, ("grpc-status", "99")], status(2)),
            (503, &[HTML, ("grpc-status", "14")], status(14)),
            (200, &[HTML], Err(("UNKNOWN", "HTTP status 200 and content-type `text/html; charset=utf-8`"))),
            (200, &[], Err(("UNKNOWN", "HTTP status 200 and no content-type"))),
            (200, &[("content-type", "application/grpc-web")], Err(("UNKNOWN", "application/grpc-web"))),
            (200, &[("content-type", "application/json")], Err(("UNKNOWN", "application/json"))),
            (200, &[("content-type", "application/gr")], Err(("UNKNOWN", "which is not gRPC"))),
            (400, &[HTML], Err(("INTERNAL", "HTTP status 400"))),
            (401, &[HTML], Err(("UNAUTHENTICATED", "HTTP status 401"))),
            (403, &[HTML], Err(("PERMISSION_DENIED", "HTTP status 403"))),
            (404, &[HTML], Err(("UNIMPLEMENTED", "HTTP status 404"))),
            (429, &[HTML], Err(("UNAVAILABLE", "HTTP status 429"))),
            (500, &[HTML], Err(("UNKNOWN", "HTTP status 500"))),
            (502, &[HTML], Err(("UNAVAILABLE", "HTTP status 502"))),
            (503, &[TYPE], Err(("UNAVAILABLE", "HTTP status 503"))),
            (504, &[], Err(("UNAVAILABLE", "HTTP status 504"))),
            // A content network whose origin is down (jup-ag/metis-binary#28).
            (521, &[HTML], Err(("UNKNOWN", "HTTP status 521"))),
            (302, &[], Err(("UNKNOWN", "HTTP status 302"))),
        ];
        let accepted = HeaderValue::from_static("deflate, gzip");
        for (http, headers, expected) in cases {
            let validated = validate_head(&head(*http, headers), &peer(), Some(&accepted));
            match (validated, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, *expected, "{http} {headers:?}"),
                (Err(failure), Err((code, words))) => {
                    let (found, said) = (failure.outcome().code.to_string(), failure.to_string());
                    assert_eq!(found, *code, "{http} {headers:?}");
                    assert!(said.contains(words) && said.contains("web-1 at 127.0.0.1:1"), "{said}");
                }
                (found, expected) => panic!("{http} {headers:?}: {found:?}, expected {expected:?}"),
            }
        }
        let compressed = head(200, &[TYPE, ("grpc-encoding", "gzip")]);
        assert!(validate_head(&compressed, &peer(), None).is_err(), "the request accepted none");
    }

    #[test]
    fn error_details_that_tonic_would_panic_on_are_removed() {
        for (details, kept) in
            [("aGVsbG8=", true), ("aGVsbG8", true), ("a", false), ("!!!!", false), ("aGVsbG8=a", false)]
        {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", "3".parse().unwrap());
            headers.insert("grpc-status-details-bin", details.parse().unwrap());
            repair_status(&mut headers);
            assert_eq!(headers.contains_key("grpc-status-details-bin"), kept, "{details}");
            // Panics if it reads what was kept as malformed.
            assert!(Status::from_header_map(&headers).is_some());
        }
    }

    #[test]
    fn a_message_that_is_not_utf8_does_not_cost_the_status() {
        for (message, text) in [
            (&b"plain"[..], "plain"),
            (b"caf%C3%A9 100%25", "caf\u{e9} 100%"),
            (b"caf%E9", "caf\u{fffd}"),
            (b"caf\xe9 100%25", "caf\u{fffd} 100%"),
            (b"\xff\xfe", "\u{fffd}\u{fffd}"),
            (b"50% off", "50% off"),
            // As servers write it that do not escape (cloudendpoints/esp#583).
            ("\u{7f3a}".as_bytes(), "\u{7f3a}"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", "5".parse().unwrap());
            headers.insert("grpc-message", HeaderValue::from_bytes(message).unwrap());
            repair_status(&mut headers);
            let status = Status::from_header_map(&headers).unwrap();
            assert_eq!((status.code(), status.message()), (tonic::Code::NotFound, text));
        }
    }
}
