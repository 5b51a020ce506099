//! Whether, and when, a failed attempt is followed by another.

use std::time::Duration;

use crate::backoff::full_jitter;

/// How an attempt failed, as far as sending again is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// The request provably was not processed: it never left, or the server
    /// said so (`REFUSED_STREAM`, a GOAWAY below its stream).
    NotProcessed,
    /// The connection broke, or the server answered UNAVAILABLE: it may or may
    /// not have been processed.
    Unavailable,
    /// Anything else; sending again would not help.
    Final,
}

/// The most attempts that may have been processed, the first included.
const ATTEMPTS: u32 = 3;
/// The most attempts in all. Those that were provably not processed are free
/// within this bound; the deadline bounds them too.
const SENDS: u32 = 8;
const BASE: Duration = Duration::from_millis(25);
const CAP: Duration = Duration::from_secs(1);

/// What one call has already tried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tries {
    /// Attempts that may have been processed.
    counted: u32,
    /// Attempts in all.
    sends: u32,
}

impl Tries {
    /// Attempts made so far.
    #[must_use]
    pub fn sends(self) -> u32 {
        self.sends
    }

    /// Records a failed attempt and decides: `Some(delay)` to try again after
    /// that long, `None` to give up. `idempotent`: the method may be sent
    /// again although the last attempt may have been processed.
    ///
    /// Source: gRFC A6 (transparent retries, retry policy); delays are fully
    /// jittered, and none is owed where the server did not process anything.
    pub fn again(&mut self, failure: Failure, idempotent: bool) -> Option<Duration> {
        self.sends += 1;
        match failure {
            Failure::NotProcessed if self.sends < SENDS => {
                let first = self.sends == 1;
                Some(if first { Duration::ZERO } else { full_jitter(BASE, self.sends - 1, CAP) })
            }
            Failure::Unavailable => {
                self.counted += 1;
                let more = idempotent && self.counted < ATTEMPTS && self.sends < SENDS;
                more.then(|| full_jitter(BASE, self.counted, CAP))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idempotent_call_gets_two_more_attempts() {
        let mut tries = Tries::default();
        assert!(tries.again(Failure::Unavailable, true).is_some());
        assert!(tries.again(Failure::Unavailable, true).is_some());
        assert_eq!(tries.again(Failure::Unavailable, true), None);
    }

    #[test]
    fn a_call_that_is_not_idempotent_is_repeated_only_if_provably_not_processed() {
        let mut tries = Tries::default();
        assert_eq!(tries.again(Failure::NotProcessed, false), Some(Duration::ZERO));
        assert_eq!(tries.again(Failure::Unavailable, false), None);
    }

    #[test]
    fn even_unprocessed_attempts_come_to_an_end() {
        let mut tries = Tries::default();
        let more = (0..100).take_while(|_| tries.again(Failure::NotProcessed, true).is_some()).count();
        assert_eq!(more, 7);
    }

    #[test]
    fn a_final_failure_is_never_repeated() {
        assert_eq!(Tries::default().again(Failure::Final, true), None);
    }
}
