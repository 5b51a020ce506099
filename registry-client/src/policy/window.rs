//! A sliding count of events.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

/// The number of events in the last `SLOTS` slots of time, the current one
/// included. Lock-free; adding is one atomic add but for the first of each
/// slot.
///
/// Each slot holds its turn (the number of slots since the start) in the upper
/// half and its count in the lower, so that old counts are recognised without
/// being cleared.
#[derive(Debug)]
pub(super) struct Window<const SLOTS: usize> {
    start: Instant,
    /// The length of a slot in nanoseconds; above 0.
    slot: u64,
    slots: [AtomicU64; SLOTS],
}

impl<const SLOTS: usize> Window<SLOTS> {
    /// An empty window of `SLOTS` slots of this length.
    pub(super) fn new(start: Instant, slot: Duration) -> Self {
        Self { start, slot: nanos(slot).max(1), slots: [const { AtomicU64::new(0) }; SLOTS] }
    }

    /// Counts an event.
    pub(super) fn add(&self, now: Instant) {
        let turn = self.turn(now);
        let slot = self.slot_of(turn);
        let held = slot.load(Relaxed);
        // A slot that has moved on counts a late event.
        if turn_of(held) >= turn {
            slot.fetch_add(1, Relaxed);
            return;
        }
        let begun = slot.compare_exchange(held, turn << 32 | 1, Relaxed, Relaxed);
        if begun.is_err() {
            // Another thread has begun this slot.
            slot.fetch_add(1, Relaxed);
        }
    }

    /// The number of events in the window.
    pub(super) fn sum(&self, now: Instant) -> u64 {
        self.sum_of(SLOTS as u64, now)
    }

    /// The number of events in the last `slots` slots.
    pub(super) fn sum_of(&self, slots: u64, now: Instant) -> u64 {
        let turn = self.turn(now);
        let recent = |held: &u64| turn_of(*held) + slots > turn;
        self.slots.iter().map(|slot| slot.load(Relaxed)).filter(recent).map(count_of).sum()
    }

    fn turn(&self, now: Instant) -> u64 {
        // 32 bits, as a slot stores: at slots of 250 ms, 34 years.
        (nanos(now.saturating_duration_since(self.start)) / self.slot) & u64::from(u32::MAX)
    }

    #[allow(clippy::cast_possible_truncation, reason = "the remainder is below SLOTS, a usize")]
    fn slot_of(&self, turn: u64) -> &AtomicU64 {
        &self.slots[(turn % SLOTS as u64) as usize]
    }
}

fn turn_of(held: u64) -> u64 {
    held >> 32
}

fn count_of(held: u64) -> u64 {
    held & u64::from(u32::MAX)
}

/// Up to 584 years.
fn nanos(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(time.subsec_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: Duration = Duration::from_millis(250);

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let start = Instant::now();
        let window = Window::<4>::new(start, SLOT);
        window.add(start);
        window.add(start + SLOT);
        assert_eq!(window.sum(start + SLOT * 3), 2);
        assert_eq!(window.sum_of(3, start + SLOT * 3), 1);
        assert_eq!(window.sum(start + SLOT * 4), 1);
        assert_eq!(window.sum(start + SLOT * 5), 0);
    }

    #[test]
    fn a_slot_is_used_again_for_its_next_turn() {
        let start = Instant::now();
        let window = Window::<4>::new(start, SLOT);
        for turn in 0..100 {
            window.add(start + SLOT * turn);
        }
        assert_eq!(window.sum(start + SLOT * 99), 4);
    }

    #[test]
    fn a_moment_late_still_counts() {
        let start = Instant::now();
        let window = Window::<4>::new(start, SLOT);
        window.add(start + SLOT * 5);
        window.add(start + SLOT * 4);
        window.add(start + SLOT);
        assert_eq!(window.sum(start + SLOT * 5), 3);
    }

    #[test]
    fn threads_lose_nothing() {
        let start = Instant::now();
        let window = Window::<4>::new(start, SLOT);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| window.add(start + SLOT)));
            }
        });
        assert_eq!(window.sum(start + SLOT), 40_000);
    }
}
