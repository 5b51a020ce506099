//! The `grpc-timeout` header: the time that is left of a call.
//!
//! Source: gRPC over HTTP/2, `Timeout → "grpc-timeout" TimeoutValue TimeoutUnit`,
//! at most eight digits and a unit of `H M S m u n`.

use std::time::Duration;

/// The largest value of eight digits.
const MAX_VALUE: u64 = 99_999_999;

/// Reads a `grpc-timeout`; `None` when it is malformed, which the protocol
/// lets a receiver treat as absent.
#[must_use]
pub fn parse(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0u64, |value, digit| value * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(value * 3_600),
        b'M' => Duration::from_secs(value * 60),
        b'S' => Duration::from_secs(value),
        b'm' => Duration::from_millis(value),
        b'u' => Duration::from_micros(value),
        b'n' => Duration::from_nanos(value),
        _ => return None,
    })
}

/// The time that a server is given beyond its caller's, so that the caller's
/// timer fires first: a server whose timer fires first resets the stream, which
/// is less clear than `DEADLINE_EXCEEDED`. More than the inaccuracy of a
/// millisecond timer. A nested call adds none: it is included in the time of
/// the outer call.
pub(crate) const SERVER_MARGIN: Duration = Duration::from_millis(2);

/// Formats a `grpc-timeout`: in the coarsest unit that is exact, else in the
/// finest that fits. Never 0, which would mean that the deadline has passed.
#[must_use]
pub fn format(left: Duration) -> String {
    // Saturates at some 500 years, which is as good as any longer time.
    let nanos = u64::try_from(left.as_nanos()).unwrap_or(u64::MAX).max(1);
    let exact = UNITS.iter().rev().find(|(size, _)| nanos.is_multiple_of(*size) && nanos / size <= MAX_VALUE);
    let finest = || UNITS.iter().find(|(size, _)| nanos / size <= MAX_VALUE);
    let (size, unit) = exact.or_else(finest).unwrap_or(&UNITS[UNITS.len() - 1]);
    format!("{}{unit}", nanos / size)
}

/// Every unit with its size in nanoseconds, the finest first.
const UNITS: [(u64, char); 6] = [
    (1, 'n'),
    (1_000, 'u'),
    (1_000_000, 'm'),
    (1_000_000_000, 'S'),
    (60_000_000_000, 'M'),
    (3_600_000_000_000, 'H'),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_read_in_every_unit() {
        for (text, expected) in [
            ("1H", Duration::from_secs(3_600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("99999999n", Duration::from_nanos(99_999_999)),
        ] {
            assert_eq!(parse(text.as_bytes()), Some(expected), "{text}");
        }
    }

    #[test]
    fn a_malformed_timeout_counts_as_absent() {
        for text in ["", "S", "1", "1x", "-1S", "123456789S", "1.5S", " 1S"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_round_timeout_is_written_short() {
        assert_eq!(format(Duration::from_secs(15)), "15S");
        assert_eq!(format(Duration::from_millis(1_500)), "1500m");
        assert_eq!(format(Duration::ZERO), "1n");
    }

    #[test]
    fn what_is_written_is_read_back_within_its_precision() {
        for nanos in [0, 1, 99_999_999, 100_000_000, 1_500_000_000, 15_000_000_000, u64::MAX] {
            let left = Duration::from_nanos(nanos);
            let read = parse(format(left).as_bytes()).unwrap();
            let error = left.max(Duration::from_nanos(1)).abs_diff(read);
            assert!(error.as_secs_f64() <= left.as_secs_f64() * 0.001, "{left:?} came back as {read:?}");
        }
    }
}
