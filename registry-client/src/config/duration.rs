//! Durations in settings.

use std::time::Duration;

use crate::instance::ParseError;

/// Parses a duration: whole numbers with the units `h`, `m`, `s`, `ms` and
/// `us`, one after the other: `15s`, `500ms`, `1m30s`. `0` needs no unit.
///
/// # Errors
/// When the text has another form or the duration is too long.
pub fn parse_duration(text: &str) -> Result<Duration, ParseError> {
    let bad = || ParseError(format!("`{text}` is not a duration such as 15s, 500ms or 1m30s"));
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let (part, after) = first_part(rest).ok_or_else(bad)?;
        total = total.checked_add(part).ok_or_else(bad)?;
        rest = after;
    }
    if text.is_empty() { Err(bad()) } else { Ok(total) }
}

/// The first number with its unit, and the rest.
fn first_part(text: &str) -> Option<(Duration, &str)> {
    let (number, rest) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let number: u64 = number.parse().ok()?;
    let (unit, rest) = rest.split_at(rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len()));
    let part = match unit {
        "h" => Duration::from_secs(number.checked_mul(3600)?),
        "m" => Duration::from_secs(number.checked_mul(60)?),
        "s" => Duration::from_secs(number),
        "ms" => Duration::from_millis(number),
        "us" => Duration::from_micros(number),
        _ => return None,
    };
    Some((part, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_may_be_combined() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("500ms", 500),
            ("15s", 15_000),
            ("1m30s", 90_000),
            ("1h2m3s4ms", 3_723_004),
            ("90s", 90_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_by_name() {
        for bad in ["", "15", "s", "-1s", "1.5s", "1 s", "1d", "15 seconds", "99999999999999999999s", "ä"] {
            let said = parse_duration(bad).unwrap_err().to_string();
            assert!(said.contains(&format!("`{bad}`")), "{said}");
        }
        assert!(parse_duration(&format!("{}h", u64::MAX)).is_err());
    }
}
