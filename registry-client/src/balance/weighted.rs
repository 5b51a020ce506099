use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Picker, ReadySet};

/// One candidate after the other, in proportion to the weights; the turns of a
/// heavy one are spread out.
///
/// The static stride scheduler of gRFC A58: a sequence number runs through
/// all candidates again and again, and a candidate is passed over in as many
/// rounds as its weight falls short of the heaviest. No state but that number.
#[derive(Debug)]
pub struct Weighted {
    sequence: AtomicU64,
}

impl Default for Weighted {
    fn default() -> Self {
        Self { sequence: AtomicU64::new(u64::from(fastrand::u32(..))) }
    }
}

impl Picker for Weighted {
    fn pick(&self, ready: &ReadySet) -> Option<usize> {
        let candidates = ready.candidates();
        let heaviest = u64::from(candidates.iter().map(|c| c.weight).max()?);
        let n = candidates.len() as u64;
        // The heaviest is never skipped, so that `n` steps find a candidate;
        // other threads may take those steps from us, hence the bound.
        for _ in 0..n * heaviest {
            let sequence = self.sequence.fetch_add(1, Relaxed);
            let (round, index) = (sequence / n, (sequence % n) as usize);
            let weight = u64::from(candidates[index].weight);
            // An offset of its own for each candidate, so that the light ones
            // do not all come in the same round.
            let offset = (heaviest / 2).wrapping_mul(index as u64);
            if (weight.wrapping_mul(round).wrapping_add(offset)) % heaviest >= heaviest - weight {
                return Some(index);
            }
        }
        ready.draw()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{counts, ready},
        *,
    };

    #[test]
    fn turns_follow_the_weights_exactly_over_a_whole_round() {
        let picker = Weighted { sequence: AtomicU64::new(0) };
        assert_eq!(counts(&picker, &ready(&[1, 2, 7]), 100), [10, 20, 70]);
        assert_eq!(counts(&picker, &ready(&[5, 5]), 100), [50, 50]);
    }

    #[test]
    fn the_turns_of_a_heavy_candidate_are_spread_out() {
        let picker = Weighted { sequence: AtomicU64::new(0) };
        let set = ready(&[1, 1, 2]);
        let picks: Vec<_> = (0..40).map(|_| picker.pick(&set).unwrap()).collect();
        let longest = picks.chunk_by(|a, b| a == b).map(<[usize]>::len).max();
        assert!(longest <= Some(2), "{picks:?}");
    }
}
