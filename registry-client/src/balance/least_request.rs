use super::{Candidate, Picker, ReadySet};

/// Of two candidates drawn at random, the one with fewer requests in flight for
/// its weight.
///
/// Two choices instead of a full scan: nearly as even, and callers that see the
/// same counts do not all choose the same instance (M. Mitzenmacher, "The Power
/// of Two Choices"). Different weights apply to the draw too, so that they hold
/// while the set is idle as well as while it is busy; Envoy's `weight / (in
/// flight + 1)` alone would send an idle set's calls to the heaviest.
///
/// Between a failing candidate and one that is not, fewer requests in flight
/// count only for the latter: failing fast must not attract load, even without
/// outlier detection.
#[derive(Debug)]
pub struct LeastRequest;

impl Picker for LeastRequest {
    fn pick(&self, ready: &ReadySet) -> Option<usize> {
        let candidates = ready.candidates();
        let (first, second) = match ready.sums {
            _ if candidates.len() < 2 => return (!candidates.is_empty()).then_some(0),
            None => two_distinct(candidates.len()),
            Some(_) => (ready.draw()?, ready.draw()?),
        };
        let better = is_less_loaded(&candidates[second], &candidates[first]);
        Some(if better { second } else { first })
    }
}

/// Two different indices below `n`, which is at least 2.
fn two_distinct(n: usize) -> (usize, usize) {
    let random = fastrand::u64(..);
    // Multiply and shift instead of a remainder: no division on this path.
    let below = |bits: u64, n: usize| ((bits * n as u64) >> 32) as usize;
    let first = below(random & u64::from(u32::MAX), n);
    let second = below(random >> 32, n - 1);
    (first, if second >= first { second + 1 } else { second })
}

/// Returns whether `a` has strictly fewer requests in flight for its weight
/// than `b`, and not because it fails.
fn is_less_loaded(a: &Candidate, b: &Candidate) -> bool {
    let busy = |c: &Candidate| u64::from(c.load.in_flight());
    // (busy a / weight a) < (busy b / weight b), without the divisions
    let is_less_loaded = busy(a) * u64::from(b.weight) < busy(b) * u64::from(a.weight);
    is_less_loaded && (!a.load.is_failing() || b.load.is_failing())
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{counts, ready},
        *,
    };

    #[test]
    fn the_busier_of_two_is_avoided() {
        let set = ready(&[1, 1]);
        set.candidates()[0].load.begin();
        assert_eq!(counts(&LeastRequest, &set, 100), [0, 100]);
    }

    #[test]
    fn twice_the_weight_bears_twice_the_requests() {
        let set = ready(&[1, 2]);
        let share_of_the_light = || counts(&LeastRequest, &set, 3_000)[0];
        let [light, heavy] = set.candidates() else { panic!("two candidates") };

        light.load.begin();
        heavy.load.begin();
        heavy.load.begin();
        let even = share_of_the_light();
        assert!((800..1_200).contains(&even), "{even}: both bear what they should");

        heavy.load.begin();
        let relieving = share_of_the_light();
        assert!(relieving > 1_500, "{relieving}: the heavy one bears too much");
    }

    #[test]
    fn failing_fast_attracts_no_more_than_a_fair_share() {
        let set = ready(&[1, 1]);
        let [failing, healthy] = set.candidates() else { panic!("two candidates") };
        (0..8).for_each(|_| healthy.load.begin());
        for _ in 0..4 {
            let _ = failing.load.record_failure();
        }
        let share = counts(&LeastRequest, &set, 10_000)[0];
        assert!((4_500..5_500).contains(&share), "{share}: idle only because it fails");
        (0..16).for_each(|_| failing.load.record_success());
        assert_eq!(counts(&LeastRequest, &set, 100), [100, 0], "idle because it has room");
    }

    #[test]
    fn two_draws_never_give_the_same_candidate() {
        for n in 2..20 {
            for _ in 0..1_000 {
                let (a, b) = two_distinct(n);
                assert!(a != b && a < n && b < n, "{a} and {b} of {n}");
            }
        }
    }
}
