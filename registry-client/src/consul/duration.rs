//! Durations as Go writes them.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, de};

/// A duration that arrives as a Go string (`"1m30s"`) or as integer
/// nanoseconds: Consul sends both. Missing, `null`, empty and negative are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(pub Duration);

impl fmt::Display for GoDuration {
    /// The form that Consul reads, exact to the nanosecond.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.as_secs(), self.0.subsec_nanos()) {
            (secs, 0) => write!(f, "{secs}s"),
            (_, nanos) if nanos % 1_000_000 == 0 => write!(f, "{}ms", self.0.as_millis()),
            _ => write!(f, "{}ns", self.0.as_nanos()),
        }
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Visitor)
    }
}

struct Visitor;

impl de::Visitor<'_> for Visitor {
    type Value = GoDuration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as \"1m30s\", or integer nanoseconds")
    }

    fn visit_unit<E: de::Error>(self) -> Result<GoDuration, E> {
        Ok(GoDuration::default())
    }

    fn visit_u64<E: de::Error>(self, nanos: u64) -> Result<GoDuration, E> {
        Ok(GoDuration(Duration::from_nanos(nanos)))
    }

    fn visit_i64<E: de::Error>(self, nanos: i64) -> Result<GoDuration, E> {
        Ok(GoDuration(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<GoDuration, E> {
        parse(text).map(GoDuration).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

/// Reads `1h2m3.5s`, `250ms`, `-1s` (as 0), `0` and the empty string.
fn parse(text: &str) -> Option<Duration> {
    if text.is_empty() || text == "0" || text.starts_with('-') {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|&end| end > 0)?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        seconds += number.parse::<f64>().ok()? * unit_in_seconds(unit)?;
        rest = tail;
    }
    // Rounded to a nanosecond, since tenths are not exact in binary.
    Duration::try_from_secs_f64(seconds).ok()
}

fn unit_in_seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1e-9,
        "us" | "µs" | "μs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Duration, serde_json::Error> {
        serde_json::from_str::<GoDuration>(json).map(|d| d.0)
    }

    #[test]
    fn strings_and_nanoseconds_are_both_read() {
        let cases = [
            (r#""1m30s""#, 90_000),
            (r#""1h0m0.5s""#, 3_600_500),
            (r#""250ms""#, 250),
            (r#""1500us""#, 1),
            ("4000000000", 4_000),
            (r#""""#, 0),
            ("null", 0),
            ("-5", 0),
            (r#""-1s""#, 0),
        ];
        for (json, millis) in cases {
            assert_eq!(read(json).unwrap().as_millis(), millis, "{json}");
        }
        for bad in [r#""10""#, r#""s""#, r#""1x""#, r#""1.2.3s""#, r#""9e99h""#] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for millis in [1_000, 1_500, 90_000, 30] {
            let there = GoDuration(Duration::from_millis(millis));
            assert_eq!(read(&format!("\"{there}\"")).unwrap(), there.0);
        }
        let odd = GoDuration(Duration::from_nanos(1_000_000_001));
        assert_eq!(odd.to_string(), "1000000001ns");
    }
}
