//! The schedule of signing keys: when they are added, sign, and are removed.

use std::time::Duration;

use service_kit::timestamp::Timestamp;

use crate::clock::{after, between};

/// The schedule of signing keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySchedule {
    /// The time from publishing a key until it signs; 10 min.
    pub publish_ahead: Duration,
    /// The time during which a key signs; 24 h.
    pub signing_time: Duration,
    /// The lifetime of a token; 15 min.
    pub token_lifetime: Duration,
    /// The time that a key stays published after its last token has expired, since
    /// clocks differ; 5 min.
    pub grace: Duration,
    /// The interval at which each replica reads the keys; 3 s. For so long it may
    /// accept a token that another replica has revoked.
    pub refresh_interval: Duration,
}

impl Default for KeySchedule {
    fn default() -> Self {
        Self {
            publish_ahead: Duration::from_secs(10 * 60),
            signing_time: Duration::from_secs(24 * 3_600),
            token_lifetime: Duration::from_secs(15 * 60),
            grace: Duration::from_secs(5 * 60),
            refresh_interval: Duration::from_secs(3),
        }
    }
}

/// The number of a key, and the period during which it signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyPeriod {
    /// The number of the previous key plus one.
    pub number: i64,
    /// The beginning of the period.
    pub from: Timestamp,
    /// The end of the period.
    pub until: Timestamp,
}

/// The changes of the keys that are due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyPlan {
    pub(crate) add: Option<KeyPeriod>,
    pub(crate) remove_before: Option<i64>,
}

impl KeySchedule {
    /// The changes that are due for `keys`, the newest first.
    pub(crate) fn plan(&self, keys: &[KeyPeriod], now: Timestamp) -> KeyPlan {
        let add = match keys.first() {
            None => Some((1, now)),
            Some(newest) if between(now, newest.until) > self.publish_ahead => None,
            // After a long suspension no key signs, and the next one signs at once.
            Some(newest) => Some((newest.number + 1, newest.until.max(now))),
        };
        let is_expired = |key: &&KeyPeriod| after(key.until, self.token_lifetime + self.grace) <= now;
        // The newest stays, since the next number follows from it.
        let last_expired = keys.iter().skip(1).find(is_expired);
        let period = |(number, from)| KeyPeriod { number, from, until: after(from, self.signing_time) };
        KeyPlan { add: add.map(period), remove_before: last_expired.map(|key| key.number + 1) }
    }
}

/// The key of `keys`, the newest first, that signs: the oldest whose period has not
/// ended. That works also on a replica whose clock is behind that of the creator of
/// the first key.
pub(crate) fn signing_key<K>(keys: &[K], period: impl Fn(&K) -> KeyPeriod, now: Timestamp) -> Option<&K> {
    keys.iter().rev().find(|key| now < period(key).until)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn at(hours: f64) -> Timestamp {
        after(Timestamp::of_micros(0), HOUR.mul_f64(hours))
    }

    fn key(number: i64, from: f64, until: f64) -> KeyPeriod {
        KeyPeriod { number, from: at(from), until: at(until) }
    }

    fn plan(keys: &[KeyPeriod], hours: f64) -> KeyPlan {
        KeySchedule::default().plan(keys, at(hours))
    }

    #[test]
    fn the_first_key_signs_at_once_for_a_day() {
        assert_eq!(plan(&[], 5.0), KeyPlan { add: Some(key(1, 5.0, 29.0)), remove_before: None });
    }

    #[test]
    fn the_next_is_published_before_it_signs() {
        let keys = [key(1, 0.0, 24.0)];
        assert_eq!(plan(&keys, 23.8), KeyPlan::default());
        let added = Some(key(2, 24.0, 48.0));
        assert_eq!(plan(&keys, 24.0 - 1.0 / 6.0), KeyPlan { add: added, remove_before: None });
        assert_eq!(plan(&[key(2, 24.0, 48.0), key(1, 0.0, 24.0)], 23.9), KeyPlan::default());
    }

    #[test]
    fn a_key_is_removed_when_its_last_token_has_expired() {
        let keys = [key(2, 24.0, 48.0), key(1, 0.0, 24.0)];
        assert_eq!(plan(&keys, 24.33), KeyPlan::default());
        assert_eq!(plan(&keys, 24.34), KeyPlan { add: None, remove_before: Some(2) });
    }

    #[test]
    fn after_a_long_suspension_a_key_signs_at_once() {
        let plan = plan(&[key(2, 24.0, 48.0), key(1, 0.0, 24.0)], 100.0);
        assert_eq!(plan, KeyPlan { add: Some(key(3, 100.0, 124.0)), remove_before: Some(2) });
    }

    #[test]
    fn at_every_time_of_a_week_one_key_signs_and_was_published_before() {
        let schedule = KeySchedule::default();
        let (mut keys, mut published) = (Vec::<(KeyPeriod, Timestamp)>::new(), 0);
        for minute in 0..7 * 24 * 60 {
            let now = at(f64::from(minute) / 60.0);
            let times: Vec<_> = keys.iter().map(|(times, _)| *times).collect();
            let plan = schedule.plan(&times, now);
            if let Some(add) = plan.add {
                keys.insert(0, (add, now));
                published += 1;
            }
            keys.retain(|(times, _)| plan.remove_before.is_none_or(|before| times.number >= before));
            let (times, since) = signing_key(&keys, |(times, _)| *times, now).unwrap();
            assert!(times.from <= now && now < times.until, "minute {minute}");
            assert!(times.number == 1 || between(*since, times.from) >= schedule.publish_ahead - HOUR / 60);
            assert!(keys.len() <= 2);
        }
        assert_eq!(published, 8);
    }
}
