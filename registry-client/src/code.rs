//! gRPC status codes as plain numbers, for what decides about calls without
//! knowing a gRPC library.

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
    /// The caller gave up.
    pub const CANCELLED: Self = Self(1);
    /// Nothing better is known; also what an unknown number counts as.
    pub const UNKNOWN: Self = Self(2);
    /// Too late.
    pub const DEADLINE_EXCEEDED: Self = Self(4);
    /// Too many, too much, too fast.
    pub const RESOURCE_EXHAUSTED: Self = Self(8);
    /// A fault within.
    pub const INTERNAL: Self = Self(13);
    /// Not now.
    pub const UNAVAILABLE: Self = Self(14);
    /// Data is lost for good.
    pub const DATA_LOSS: Self = Self(15);

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

    /// Whether `code` is in it.
    #[must_use]
    pub const fn contains(self, code: Code) -> bool {
        self.0 & (1 << code.0) != 0
    }

    /// Whether nothing is in it.
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
