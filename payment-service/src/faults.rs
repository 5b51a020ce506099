//! Faults on purpose: what a payment provider may do to its callers.
//!
//! `PAYMENT_FAULTS` says which, and how often; without it there are none, and
//! nothing that a caller sends makes one. They befall Charge and Refund; reading
//! always works, since asking is how a caller learns what became of a call.
//!
//! | fault | what happens |
//! |---|---|
//! | `decline` | the payment method is declined |
//! | `lost` | it is done, durably, and no answer comes; with a time, the connection to the provider breaks after that |
//! | `slow` | it is done after a while |
//! | `unavailable` | nothing is done |

use std::{str::FromStr, time::Duration};

use tonic::metadata::MetadataMap;

/// The metadata by which one call asks for a fault.
pub const METADATA: &str = "x-payment-fault";

/// How slow `slow` is unless it says so.
const SLOW: Duration = Duration::from_secs(2);
/// How long `lost` waits for a caller that does not give up.
const LOST: Duration = Duration::from_secs(60);
/// The longest time that can be asked for.
const LONGEST: Duration = Duration::from_secs(60);

/// Which faults happen, and how often. By default, none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// Whether callers may ask for one.
    asked_for: bool,
    decline: f64,
    unavailable: f64,
    lost: (f64, Duration),
    slow: (f64, Duration),
}

/// A text that says no faults.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidFaults(String);

/// What befalls one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Nothing is done.
    pub unavailable: bool,
    /// It is done after this.
    pub slow: Option<Duration>,
    /// The payment method is declined.
    pub declined: bool,
    /// It is done, and no answer comes for this long.
    pub lost: Option<Duration>,
}

impl Faults {
    /// Draws what befalls a call, or takes what it asks for.
    ///
    /// # Errors
    /// When it asks for what is no fault.
    pub fn plan(&self, metadata: &MetadataMap) -> Result<Plan, InvalidFaults> {
        if let Some(asked) = metadata.get(METADATA).filter(|_| self.asked_for) {
            let asked = asked.to_str().map_err(|_| InvalidFaults("must be text".into()))?;
            return Fault::parse(asked.trim()).map(Fault::plan);
        }
        let happens = |chance: f64| fastrand::f64() < chance;
        let timed = |(chance, time)| happens(chance).then_some(time);
        Ok(Plan {
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
        let (name, rest) = word.split_once('=').ok_or_else(|| wrong(word))?;
        let (chance, time) = rest.split_once(':').map_or((rest, None), |(chance, time)| (chance, Some(time)));
        let chance = chance.parse().ok().filter(|chance| (0.0..=1.0).contains(chance));
        let chance = chance.ok_or_else(|| wrong(word))?;
        let fault = Fault::timed(name, time).ok_or_else(|| wrong(word))?;
        Ok(match fault {
            Fault::Decline => Self { decline: chance, ..self },
            Fault::Unavailable => Self { unavailable: chance, ..self },
            Fault::Lost(time) => Self { lost: (chance, time), ..self },
            Fault::Slow(time) => Self { slow: (chance, time), ..self },
        })
    }
}

fn wrong(word: &str) -> InvalidFaults {
    InvalidFaults(format!(
        "`{}` is not decline=CHANCE, unavailable=CHANCE, lost=CHANCE[:TIME], slow=CHANCE[:TIME] or metadata, \
         with a chance from 0 to 1 and a time such as 200ms or 2s, at most 60s",
        word.escape_default()
    ))
}

impl FromStr for Faults {
    type Err = InvalidFaults;

    /// Reads faults such as `decline=0.1,lost=0.3,slow=0.2:2s`. `metadata`
    /// alone makes none but those that callers ask for.
    fn from_str(text: &str) -> Result<Self, InvalidFaults> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self::default());
        }
        let none = Self { asked_for: true, ..Self::default() };
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
            ("lost", time) => Some(Self::Lost(time.unwrap_or(LOST))),
            ("slow", time) => Some(Self::Slow(time.unwrap_or(SLOW))),
            _ => None,
        }
    }

    fn plan(self) -> Plan {
        let none = Plan::default();
        match self {
            Self::Decline => Plan { declined: true, ..none },
            Self::Unavailable => Plan { unavailable: true, ..none },
            Self::Lost(time) => Plan { lost: Some(time), ..none },
            Self::Slow(time) => Plan { slow: Some(time), ..none },
        }
    }
}

fn duration(text: &str) -> Option<Duration> {
    let time = match text.strip_suffix("ms") {
        Some(number) => Duration::from_millis(number.parse().ok()?),
        None => Duration::from_secs(text.strip_suffix('s')?.parse().ok()?),
    };
    (time <= LONGEST).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(fault: &str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert(METADATA, fault.parse().unwrap());
        metadata
    }

    #[test]
    fn faults_happen_as_often_as_they_are_set_to() {
        let faults: Faults = "decline=0, lost=1:200ms,slow=0.5:1s,unavailable=1".parse().unwrap();
        let plans: Vec<_> = (0..1_000).map(|_| faults.plan(&MetadataMap::new()).unwrap()).collect();
        assert!(plans.iter().all(|plan| plan.unavailable && !plan.declined));
        assert!(plans.iter().all(|plan| plan.lost == Some(Duration::from_millis(200))));
        let slow = plans.iter().filter(|plan| plan.slow == Some(Duration::from_secs(1))).count();
        assert!((300..700).contains(&slow), "{slow}");
        assert_eq!("slow=1".parse::<Faults>().unwrap().slow.1, SLOW);
    }

    #[test]
    fn a_caller_may_ask_for_a_fault_only_where_faults_are_on() {
        let off = Faults::default();
        for asked in ["lost", "decline", "no such fault"] {
            assert_eq!(off.plan(&asking(asked)), Ok(Plan::default()));
        }
        let on: Faults = "metadata".parse().unwrap();
        assert_eq!(on.plan(&MetadataMap::new()), Ok(Plan::default()));
        assert_eq!(on.plan(&asking("decline")), Ok(Plan { declined: true, ..Plan::default() }));
        assert_eq!(on.plan(&asking("lost")).unwrap().lost, Some(LOST));
        assert_eq!(on.plan(&asking("slow:5ms")).unwrap().slow, Some(Duration::from_millis(5)));
        for bad in ["", "explode", "decline:1s", "slow:1h", "lost:61s", "lost=1"] {
            assert!(on.plan(&asking(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_says_no_faults_is_refused_by_the_word_that_is_wrong() {
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
