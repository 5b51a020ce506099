use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::{Picker, ReadySet};

/// One candidate after the other; 100 picks over 4 are 25 each. Begins
/// anywhere, so that many clients started together do not move in step.
#[derive(Debug)]
pub struct RoundRobin {
    turn: AtomicU32,
}

impl Default for RoundRobin {
    fn default() -> Self {
        Self { turn: AtomicU32::new(fastrand::u32(..)) }
    }
}

impl Picker for RoundRobin {
    fn pick(&self, ready: &ReadySet) -> Option<usize> {
        let turn = self.turn.fetch_add(1, Relaxed) as usize;
        turn.checked_rem(ready.len())
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{counts, ready},
        *,
    };

    #[test]
    fn a_hundred_picks_over_four_are_twenty_five_each() {
        let picker = RoundRobin { turn: AtomicU32::new(0) };
        assert_eq!(counts(&picker, &ready(&[1; 4]), 100), [25; 4]);
    }
}
