//! Injected faults, as a payment provider has them.
//!
//! `PAYMENT_FAULTS` sets the faults and their probability; without it there are none,
//! whatever a caller sends. They affect Charge and Refund. Reads always work, because
//! they are how a caller learns the outcome of a call.
//!
//! | fault | effect |
//! |---|---|
//! | `decline` | the payment method is declined |
//! | `lost` | the call takes effect and no answer comes; after the time the connection to the provider breaks |
//! | `slow` | the call takes effect after the time |
//! | `unavailable` | the call fails without an effect |

use std::{str::FromStr, time::Duration};

use tonic::metadata::MetadataMap;

/// The metadata key with which a call requests a fault.
pub const METADATA: &str = "x-payment-fault";

/// The delay of `slow` without a time.
const DEFAULT_SLOW_TIME: Duration = Duration::from_secs(2);
/// The time of `lost` without one.
const DEFAULT_LOST_TIME: Duration = Duration::from_secs(60);
/// The longest time of a fault.
const MAX_TIME: Duration = Duration::from_secs(60);

/// The faults with their probabilities. By default, none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// True when callers may request faults.
    allows_requests: bool,
    decline: f64,
    unavailable: f64,
    lost: (f64, Duration),
    slow: (f64, Duration),
}

/// The reason why a text describes no faults.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidFaults(String);

/// The faults of one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallFaults {
    /// The call fails without an effect.
    pub unavailable: bool,
    /// The call takes effect after this delay.
    pub slow: Option<Duration>,
    /// The payment method is declined.
    pub declined: bool,
    /// The call takes effect and no answer comes for this time.
    pub lost: Option<Duration>,
}

impl Faults {
    /// Draws the faults of a call, or takes the one that it requests.
    ///
    /// # Errors
    /// When it requests an unknown fault.
    pub fn draw(&self, metadata: &MetadataMap) -> Result<CallFaults, InvalidFaults> {
        if let Some(requested) = metadata.get(METADATA).filter(|_| self.allows_requests) {
            let requested = requested.to_str().map_err(|_| InvalidFaults("must be text".into()))?;
            return Fault::parse(requested.trim()).map(CallFaults::from);
        }
        let happens = |chance: f64| fastrand::f64() < chance;
        let timed = |(chance, time)| happens(chance).then_some(time);
        Ok(CallFaults {
            unavailable: happens(self.unavailable),
            slow: timed(self.slow),
            declined: happens(self.decline),
            lost: timed(self.lost),
        })
    }

    fn with(self, word: &str) -> Result<Self, InvalidFaults> {
        if word == "metadata" {
            return Ok(self);
        }
        let (name, rest) = word.split_once('=').ok_or_else(|| invalid_fault(word))?;
        let (chance, time) = rest.split_once(':').map_or((rest, None), |(chance, time)| (chance, Some(time)));
        let chance = chance.parse().ok().filter(|chance| (0.0..=1.0).contains(chance));
        let chance = chance.ok_or_else(|| invalid_fault(word))?;
        let fault = Fault::timed(name, time).ok_or_else(|| invalid_fault(word))?;
        Ok(match fault {
            Fault::Decline => Self { decline: chance, ..self },
            Fault::Unavailable => Self { unavailable: chance, ..self },
            Fault::Lost(time) => Self { lost: (chance, time), ..self },
            Fault::Slow(time) => Self { slow: (chance, time), ..self },
        })
    }
}

fn invalid_fault(word: &str) -> InvalidFaults {
    InvalidFaults(format!(
        "`{}` is not decline=CHANCE, unavailable=CHANCE, lost=CHANCE[:TIME], slow=CHANCE[:TIME] or metadata, \
         with a chance from 0 to 1 and a time such as 200ms or 2s, at most 60s",
        word.escape_default()
    ))
}

impl FromStr for Faults {
    type Err = InvalidFaults;

    /// Parses faults such as `decline=0.1,lost=0.3,slow=0.2:2s`. With `metadata` alone
    /// there are only those that callers request.
    fn from_str(text: &str) -> Result<Self, InvalidFaults> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self::default());
        }
        let none = Self { allows_requests: true, ..Self::default() };
        text.split(',').try_fold(none, |faults, word| faults.with(word.trim()))
    }
}

#[derive(Clone, Copy)]
enum Fault {
    Decline,
    Unavailable,
    Lost(Duration),
    Slow(Duration),
}

impl Fault {
    fn parse(text: &str) -> Result<Self, InvalidFaults> {
        let (name, time) = text.split_once(':').map_or((text, None), |(name, time)| (name, Some(time)));
        Self::timed(name, time).ok_or_else(|| {
            InvalidFaults("must be decline, unavailable, lost, slow, lost:TIME or slow:TIME".into())
        })
    }

    fn timed(name: &str, time: Option<&str>) -> Option<Self> {
        let time = time.map(|time| duration(time).ok_or(())).transpose().ok()?;
        match (name, time) {
            ("decline", None) => Some(Self::Decline),
            ("unavailable", None) => Some(Self::Unavailable),
            ("lost", time) => Some(Self::Lost(time.unwrap_or(DEFAULT_LOST_TIME))),
            ("slow", time) => Some(Self::Slow(time.unwrap_or(DEFAULT_SLOW_TIME))),
            _ => None,
        }
    }
}

impl From<Fault> for CallFaults {
    fn from(fault: Fault) -> Self {
        let none = Self::default();
        match fault {
            Fault::Decline => Self { declined: true, ..none },
            Fault::Unavailable => Self { unavailable: true, ..none },
            Fault::Lost(time) => Self { lost: Some(time), ..none },
            Fault::Slow(time) => Self { slow: Some(time), ..none },
        }
    }
}

fn duration(text: &str) -> Option<Duration> {
    let time = match text.strip_suffix("ms") {
        Some(number) => Duration::from_millis(number.parse().ok()?),
        None => Duration::from_secs(text.strip_suffix('s')?.parse().ok()?),
    };
    (time <= MAX_TIME).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requesting(fault: &str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert(METADATA, fault.parse().unwrap());
        metadata
    }

    #[test]
    fn faults_have_their_probability() {
        let faults: Faults = "decline=0, lost=1:200ms,slow=0.5:1s,unavailable=1".parse().unwrap();
        let calls: Vec<_> = (0..1_000).map(|_| faults.draw(&MetadataMap::new()).unwrap()).collect();
        assert!(calls.iter().all(|call| call.unavailable && !call.declined));
        assert!(calls.iter().all(|call| call.lost == Some(Duration::from_millis(200))));
        let slow = calls.iter().filter(|call| call.slow == Some(Duration::from_secs(1))).count();
        assert!((300..700).contains(&slow), "{slow}");
        assert_eq!("slow=1".parse::<Faults>().unwrap().slow.1, DEFAULT_SLOW_TIME);
    }

    #[test]
    fn a_caller_may_request_a_fault_only_where_faults_are_on() {
        let off = Faults::default();
        for fault in ["lost", "decline", "no such fault"] {
            assert_eq!(off.draw(&requesting(fault)), Ok(CallFaults::default()));
        }
        let on: Faults = "metadata".parse().unwrap();
        assert_eq!(on.draw(&MetadataMap::new()), Ok(CallFaults::default()));
        assert_eq!(
            on.draw(&requesting("decline")),
            Ok(CallFaults { declined: true, ..CallFaults::default() })
        );
        assert_eq!(on.draw(&requesting("lost")).unwrap().lost, Some(DEFAULT_LOST_TIME));
        assert_eq!(on.draw(&requesting("slow:5ms")).unwrap().slow, Some(Duration::from_millis(5)));
        for bad in ["", "explode", "decline:1s", "slow:1h", "lost:61s", "lost=1"] {
            assert!(on.draw(&requesting(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_error_names_the_invalid_word() {
        assert_eq!("".parse(), Ok(Faults::default()));
        for (text, word) in [
            ("explode=1", "explode=1"),
            ("decline", "decline"),
            ("decline=0.1,lost=2", "lost=2"),
            ("lost=-0.1", "lost=-0.1"),
            ("lost=NaN", "lost=NaN"),
            ("slow=1:2h", "slow=1:2h"),
            ("slow=1:99999999999999999999s", "slow=1:99999999999999999999s"),
            ("decline=1:2s", "decline=1:2s"),
            ("decline=0.1,", ""),
        ] {
            let why = text.parse::<Faults>().unwrap_err().to_string();
            assert!(why.starts_with(&format!("`{word}` is not ")), "{why}");
        }
    }
}
