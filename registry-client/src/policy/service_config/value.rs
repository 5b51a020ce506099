//! Single values as protobuf's JSON writes them: numbers may be strings,
//! durations are seconds with a trailing `s`.

use std::time::Duration;

use serde_json::Value;

use super::json::Field;
use crate::{
    code::{Code, Codes},
    instance::ParseError,
};

pub(super) fn boolean(field: Field) -> Result<bool, ParseError> {
    field.value().as_bool().ok_or_else(|| field.wrong("is neither; true or false is expected"))
}

pub(super) fn text(field: Field) -> Result<String, ParseError> {
    match field.value() {
        Value::String(text) => Ok(text.clone()),
        _ => Err(field.wrong("is no text; a string is expected")),
    }
}

/// A finite number, as a number or as text.
pub(super) fn number(field: &Field) -> Option<f64> {
    let number = match field.value() {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    number.filter(|number| number.is_finite())
}

/// A number above 0.
pub(super) fn positive(field: Field) -> Result<f64, ParseError> {
    let above = |number: &f64| *number > 0.0;
    number(&field).filter(above).ok_or_else(|| field.wrong("is not a number above 0"))
}

/// An integer from `min` to `max`.
pub(super) fn integer(field: &Field, min: u32, max: u32) -> Result<u32, ParseError> {
    let whole = match field.value() {
        // protobuf lets an integer be written with digits and with an empty fraction.
        Value::Number(number) => number.as_u64().or_else(|| whole(number.as_f64()?)),
        Value::String(text) => text.parse().ok().or_else(|| whole(text.parse().ok()?)),
        _ => None,
    };
    let fits = |number: u64| u32::try_from(number).ok().filter(|n| (min..=max).contains(n));
    whole.and_then(fits).ok_or_else(|| {
        field.wrong(match max {
            u32::MAX => format!("does not do; an integer of {min} or more is expected"),
            _ => format!("does not do; an integer of {min} to {max} is expected"),
        })
    })
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked right before")]
fn whole(number: f64) -> Option<u64> {
    let fits = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
    fits.then_some(number as u64)
}

/// A number of bytes, saturated to `usize`.
pub(super) fn bytes(field: Field) -> Result<usize, ParseError> {
    integer(&field, 0, u32::MAX).map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// A percentage, 0 to 100.
pub(super) fn percent(field: Field) -> Result<u32, ParseError> {
    integer(&field, 0, 100)
}

/// Any duration that is not negative.
pub(super) fn duration(field: Field) -> Result<Duration, ParseError> {
    let read = field.value().as_str().and_then(seconds);
    read.ok_or_else(|| field.wrong("is no duration; seconds such as \"15s\" or \"0.25s\" are expected"))
}

/// A duration above 0.
pub(super) fn positive_duration(field: Field) -> Result<Duration, ParseError> {
    match field.value().as_str().and_then(seconds) {
        Some(Duration::ZERO) => Err(field.wrong("is no time at all; a duration above 0 is expected")),
        Some(some) => Ok(some),
        None => duration(field),
    }
}

/// The most seconds of a `google.protobuf.Duration`: ten thousand years.
const MAX_SECONDS: u64 = 315_576_000_000;

/// `1.5s`: digits, up to nine behind the point, an `s`.
fn seconds(text: &str) -> Option<Duration> {
    let number = text.strip_suffix('s')?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let whole = whole.parse().ok().filter(|secs| *secs <= MAX_SECONDS)?;
    Some(Duration::new(whole, format!("{fraction:0<9}").parse().ok()?))
}

/// A list of status codes, each by its name in any case or by its number.
pub(super) fn codes(field: Field) -> Result<Codes, ParseError> {
    field.list()?.into_iter().map(|field| code(&field)).collect()
}

/// A list of at least one status code.
pub(super) fn nonempty_codes(field: Field) -> Result<Codes, ParseError> {
    if field.value().as_array().is_some_and(Vec::is_empty) {
        return Err(field.wrong("names no code; at least one is expected, such as \"UNAVAILABLE\""));
    }
    codes(field)
}

fn code(field: &Field) -> Result<Code, ParseError> {
    let code = match field.value() {
        Value::String(name) => name.to_ascii_uppercase().parse().ok(),
        _ => integer(field, 0, 16).ok().and_then(|n| i32::try_from(n).ok()).map(Code::from_number),
    };
    match code {
        Some(Code::OK) => Err(field.wrong("is success, which is never repeated")),
        Some(code) => Ok(code),
        None => {
            Err(field.wrong("is no gRPC status code; a name such as \"UNAVAILABLE\" or 1 to 16 is expected"))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field(value: &str) -> Field {
        Field::parse(&format!("{{\"f\": {value}}}")).unwrap().object().unwrap().take("f").unwrap()
    }

    #[test]
    fn a_duration_is_seconds_with_up_to_nine_digits_behind_the_point() {
        for (text, expected) in [
            ("\"1s\"", Duration::from_secs(1)),
            ("\"1.5s\"", Duration::from_millis(1_500)),
            ("\"0.000000001s\"", Duration::from_nanos(1)),
            ("\"0s\"", Duration::ZERO),
            ("\"315576000000s\"", Duration::from_secs(MAX_SECONDS)),
        ] {
            assert_eq!(duration(field(text)).unwrap(), expected, "{text}");
        }
        for bad in [
            "1",
            "1.5",
            "\"1\"",
            "\"s\"",
            "\".5s\"",
            "\"1.s\"",
            "\"-1s\"",
            "\"+1s\"",
            "\"1m\"",
            "\"1 s\"",
            "\"1.0000000001s\"",
            "\"315576000001s\"",
            "\"99999999999999999999s\"",
            "true",
            "[]",
        ] {
            let said = duration(field(bad)).unwrap_err().0;
            assert!(said.starts_with("f: ") && said.contains("\"15s\""), "{said}");
        }
        assert_eq!(
            positive_duration(field("\"0.0s\"")).unwrap_err().0,
            "f: \"0.0s\" is no time at all; a duration above 0 is expected"
        );
    }

    #[test]
    fn a_number_may_be_a_string() {
        for three in ["3", "\"3\"", "3.0", "\"3.0\"", "3e0"] {
            assert_eq!(integer(&field(three), 2, 5), Ok(3), "{three}");
            assert_eq!(positive(field(three)), Ok(3.0), "{three}");
        }
        assert_eq!(
            integer(&field("1"), 2, 5).unwrap_err().0,
            "f: 1 does not do; an integer of 2 to 5 is expected"
        );
        for bad in ["1", "6", "3.5", "-3", "\"3x\"", "\"\"", "1e300", "99999999999999999999", "true"] {
            assert!(integer(&field(bad), 2, 5).is_err(), "{bad}");
        }
        for bad in ["0", "-1", "\"NaN\"", "\"Infinity\"", "\"inf\"", "\"1e999\"", "[1]"] {
            assert!(positive(field(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn codes_are_names_in_any_case_or_numbers() {
        let expected = Codes::of(&[Code::UNAVAILABLE, Code::INTERNAL]);
        assert_eq!(codes(field(r#"["UNAVAILABLE", "internal", 14]"#)), Ok(expected));
        for bad in [r#"["BUSY"]"#, "[17]", "[-1]", "[\"OK\"]", "[0]", "[null]"] {
            let said = codes(field(bad)).unwrap_err().0;
            assert!(said.starts_with("f[0]: "), "{said}");
        }
        assert!(codes(field("[]")).unwrap().is_empty());
        assert!(nonempty_codes(field("[]")).is_err() && nonempty_codes(field("14")).is_err());
    }

    proptest! {
        #[test]
        fn no_text_is_more_than_refused(text in "[0-9.+\\-eE s]{0,24}") {
            let quoted = format!("\"{text}\"");
            let _ = (duration(field(&quoted)), integer(&field(&quoted), 0, u32::MAX), positive(field(&quoted)));
        }

        #[test]
        fn every_duration_is_read_back(secs in 0..=MAX_SECONDS, nanos in 0u32..1_000_000_000) {
            let text = format!("\"{secs}.{nanos:09}s\"");
            prop_assert_eq!(duration(field(&text)), Ok(Duration::new(secs, nanos)));
        }
    }
}
