//! Durations in Consul's notation: `1m30s`, `250ms`, `0s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A signed duration in nanoseconds with Go's notation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct GoDuration(i64);

impl GoDuration {
    pub(crate) fn is_positive(self) -> bool {
        self.0 > 0
    }

    pub(crate) fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The duration for a timer; a negative one becomes zero.
    pub(crate) fn as_std(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }

    /// Parses nanoseconds from a JSON number; out-of-range values are clamped.
    #[allow(clippy::cast_possible_truncation, reason = "a float cast to i64 saturates, as intended")]
    pub(crate) fn from_nanos_text(text: &str) -> Self {
        Self(text.parse::<f64>().map_or(0, |nanos| nanos as i64))
    }
}

impl FromStr for GoDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || format!("time: invalid duration {text:?}");
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total = 0_i128;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let (number, after) = rest.split_at(digits);
            let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
            let (unit, after) = after.split_at(end);
            if !number.bytes().any(|b| b.is_ascii_digit()) || number.matches('.').count() > 1 {
                return Err(invalid());
            }
            if unit.is_empty() {
                return Err(format!("time: missing unit in duration {text:?}"));
            }
            let scale =
                nanos_per(unit).ok_or_else(|| format!("time: unknown unit {unit:?} in duration {text:?}"))?;
            total += scaled(number, scale).ok_or_else(invalid)?;
            rest = after;
        }
        i64::try_from(if negative { -total } else { total }).map(Self).map_err(|_| invalid())
    }
}

fn nanos_per(unit: &str) -> Option<i128> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// `number` (digits with at most one point) times `scale`, truncated to whole
/// nanoseconds.
fn scaled(number: &str, scale: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole = if whole.is_empty() { 0 } else { i128::from(whole.parse::<i64>().ok()?) };
    // Fifteen places are finer than a nanosecond of an hour.
    let fraction = &fraction[..fraction.len().min(15)];
    let places = u32::try_from(fraction.len()).ok()?;
    let part = if fraction.is_empty() { 0 } else { fraction.parse::<i128>().ok()? };
    Some(whole * scale + part * scale / 10_i128.pow(places))
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let nanos = self.0.unsigned_abs();
        match nanos {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{nanos}ns"),
            1_000..1_000_000 => write!(f, "{}µs", decimal(nanos, 1_000)),
            1_000_000..1_000_000_000 => write!(f, "{}ms", decimal(nanos, 1_000_000)),
            _ => {
                let minutes = nanos / 60_000_000_000;
                if minutes >= 60 {
                    write!(f, "{}h", minutes / 60)?;
                }
                if minutes > 0 {
                    write!(f, "{}m", minutes % 60)?;
                }
                write!(f, "{}s", decimal(nanos % 60_000_000_000, 1_000_000_000))
            }
        }
    }
}

/// `nanos / unit` with as many decimal places as needed.
fn decimal(nanos: u64, unit: u64) -> String {
    let (whole, part) = (nanos / unit, nanos % unit);
    if part == 0 {
        return whole.to_string();
    }
    let width = unit.ilog10() as usize;
    let fraction = format!("{part:0width$}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_gos_notation() {
        for (text, shown) in [
            ("10s", "10s"),
            ("90s", "1m30s"),
            ("1h", "1h0m0s"),
            ("1.5s", "1.5s"),
            ("250ms", "250ms"),
            ("1m30.25s", "1m30.25s"),
            ("-5s", "-5s"),
            ("0", "0s"),
            (".5us", "500ns"),
            ("1500us", "1.5ms"),
        ] {
            assert_eq!(text.parse::<GoDuration>().unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong_in_gos_words() {
        for (text, error) in [
            ("10", r#"time: missing unit in duration "10""#),
            ("x", r#"time: invalid duration "x""#),
            ("", r#"time: invalid duration """#),
            ("10x", r#"time: unknown unit "x" in duration "10x""#),
            ("99999999h", r#"time: invalid duration "99999999h""#),
        ] {
            assert_eq!(text.parse::<GoDuration>().unwrap_err(), error);
        }
    }
}
