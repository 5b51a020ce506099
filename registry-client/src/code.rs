//! gRPC status codes as plain numbers, independent of a gRPC library.

use std::{fmt, str::FromStr};

use crate::instance::ParseError;

/// The names of the codes, each at its number ("gRPC status codes").
const NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// A gRPC status code, 0 to 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(u8);

impl Code {
    /// Success.
    pub const OK: Self = Self(0);
    /// The caller cancelled the call.
    pub const CANCELLED: Self = Self(1);
    /// An unknown error; also the code for an unknown number.
    pub const UNKNOWN: Self = Self(2);
    /// The deadline passed.
    pub const DEADLINE_EXCEEDED: Self = Self(4);
    /// The entity does not exist.
    pub const NOT_FOUND: Self = Self(5);
    /// A quota or limit was exceeded.
    pub const RESOURCE_EXHAUSTED: Self = Self(8);
    /// An internal error.
    pub const INTERNAL: Self = Self(13);
    /// The service is unavailable at the moment.
    pub const UNAVAILABLE: Self = Self(14);
    /// Data is lost for good.
    pub const DATA_LOSS: Self = Self(15);
    /// The caller lacks a permission.
    pub const PERMISSION_DENIED: Self = Self(7);
    /// The method does not exist.
    pub const UNIMPLEMENTED: Self = Self(12);
    /// The caller is not authenticated.
    pub const UNAUTHENTICATED: Self = Self(16);

    /// The code of that number; [`Code::UNKNOWN`] when there is none.
    #[must_use]
    pub fn from_number(number: i32) -> Self {
        u8::try_from(number).ok().filter(|&n| usize::from(n) < NAMES.len()).map_or(Self::UNKNOWN, Self)
    }

    /// The code that a `grpc-status` header holds; [`Code::UNKNOWN`] when it
    /// holds none.
    #[must_use]
    pub fn from_header(value: &[u8]) -> Self {
        match *value {
            [digit @ b'0'..=b'9'] => Self(digit - b'0'),
            [b'1', digit @ b'0'..=b'6'] => Self(10 + digit - b'0'),
            _ => Self::UNKNOWN,
        }
    }

    /// The code of a response without a gRPC status, by its HTTP status.
    ///
    /// Source: gRPC, "HTTP to gRPC Status Code Mapping".
    #[must_use]
    pub fn from_http(status: u16) -> Self {
        match status {
            400 => Self::INTERNAL,
            401 => Self::UNAUTHENTICATED,
            403 => Self::PERMISSION_DENIED,
            404 => Self::UNIMPLEMENTED,
            429 | 502..=504 => Self::UNAVAILABLE,
            _ => Self::UNKNOWN,
        }
    }

    /// The code of a stream reset, by its HTTP/2 error code.
    ///
    /// Source: gRPC over HTTP/2, "Errors".
    #[must_use]
    pub fn from_http2(error: u32) -> Self {
        match error {
            // REFUSED_STREAM
            7 => Self::UNAVAILABLE,
            // CANCEL
            8 => Self::CANCELLED,
            // ENHANCE_YOUR_CALM
            11 => Self::RESOURCE_EXHAUSTED,
            // INADEQUATE_SECURITY
            12 => Self::PERMISSION_DENIED,
            _ => Self::INTERNAL,
        }
    }

    /// The name in capitals, such as `UNAVAILABLE`.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES[usize::from(self.0)]
    }

    /// The number, 0 to 16.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Code {
    type Err = ParseError;

    /// Reads a name in capitals, as service configuration writes it.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let number = NAMES.iter().position(|name| *name == text);
        number.and_then(|n| u8::try_from(n).ok()).map(Self).ok_or_else(|| {
            ParseError(format!("`{text}` is no gRPC status code; one of {} is expected", NAMES.join(", ")))
        })
    }
}

/// A set of status codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Codes(u32);

impl Codes {
    /// The set of `codes`.
    #[must_use]
    pub const fn of(codes: &[Code]) -> Self {
        let (mut bits, mut n) = (0, 0);
        while n < codes.len() {
            bits |= 1 << codes[n].0;
            n += 1;
        }
        Self(bits)
    }

    /// Every code but OK.
    #[must_use]
    pub const fn all_but_ok() -> Self {
        Self((1 << NAMES.len()) - 2)
    }

    /// Returns whether `code` is in it.
    #[must_use]
    pub const fn contains(self, code: Code) -> bool {
        self.0 & (1 << code.0) != 0
    }

    /// Returns whether nothing is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Code> for Codes {
    fn from_iter<T: IntoIterator<Item = Code>>(codes: T) -> Self {
        Self(codes.into_iter().fold(0, |bits, code| bits | 1 << code.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_read_from_its_name_its_number_and_its_header() {
        for (number, name) in (0..).zip(NAMES) {
            let code: Code = name.parse().unwrap();
            assert_eq!(code, Code::from_number(number));
            assert_eq!(code, Code::from_header(number.to_string().as_bytes()));
            assert_eq!((code.name(), i32::from(code.number())), (name, number));
        }
    }

    #[test]
    fn what_is_no_code_is_unknown_or_refused() {
        for bad in ["", "17", "99", "-1", "0x1", "014", "OK"] {
            assert_eq!(Code::from_header(bad.as_bytes()), Code::UNKNOWN, "{bad}");
        }
        assert_eq!((Code::from_number(-1), Code::from_number(17)), (Code::UNKNOWN, Code::UNKNOWN));
        assert!("unavailable".parse::<Code>().unwrap_err().to_string().contains("UNAVAILABLE"));
    }

    /// The two tables of gRPC's documents, row by row.
    #[test]
    fn http_statuses_and_http2_errors_are_mapped_as_grpc_says() {
        for (status, name) in [
            (400, "INTERNAL"),
            (401, "UNAUTHENTICATED"),
            (403, "PERMISSION_DENIED"),
            (404, "UNIMPLEMENTED"),
            (429, "UNAVAILABLE"),
            (502, "UNAVAILABLE"),
            (503, "UNAVAILABLE"),
            (504, "UNAVAILABLE"),
            (200, "UNKNOWN"),
            (302, "UNKNOWN"),
            (415, "UNKNOWN"),
            (431, "UNKNOWN"),
            (500, "UNKNOWN"),
        ] {
            assert_eq!(Code::from_http(status).name(), name, "HTTP {status}");
        }
        for (error, name) in [
            (0, "INTERNAL"),
            (1, "INTERNAL"),
            (2, "INTERNAL"),
            (3, "INTERNAL"),
            (5, "INTERNAL"),
            (6, "INTERNAL"),
            (7, "UNAVAILABLE"),
            (8, "CANCELLED"),
            (9, "INTERNAL"),
            (10, "INTERNAL"),
            (11, "RESOURCE_EXHAUSTED"),
            (12, "PERMISSION_DENIED"),
            (13, "INTERNAL"),
            (99, "INTERNAL"),
        ] {
            assert_eq!(Code::from_http2(error).name(), name, "HTTP/2 error {error}");
        }
    }

    #[test]
    fn a_set_holds_what_it_was_made_of() {
        let set = Codes::of(&[Code::UNAVAILABLE, Code::INTERNAL]);
        assert!(set.contains(Code::UNAVAILABLE) && set.contains(Code::INTERNAL) && !set.contains(Code::OK));
        assert_eq!([Code::INTERNAL, Code::UNAVAILABLE].into_iter().collect::<Codes>(), set);
        assert!(Codes::default().is_empty());
        let failed = Codes::all_but_ok();
        assert!((1..17).all(|n| failed.contains(Code::from_number(n))) && !failed.contains(Code::OK));
    }
}
