use std::sync::Arc;

use super::{super::FailureRules, *};
use crate::{code::Code, outcome::Outcome};

const NO_INSTANCES: [usize; 0] = [];
const SECOND: Duration = Duration::from_secs(1);
const OK: Outcome = Outcome::status(Code::OK);
const FAILED: Outcome = Outcome::status(Code::UNAVAILABLE);

/// Instances that are called in turn, as a channel does it, in a time of its
/// own.
struct Bed {
    detector: Detector,
    records: Vec<Record>,
    standings: Vec<EjectionState>,
    began: Instant,
    now: Instant,
    calls: usize,
    /// The time, the instance, and its ejections by then.
    ejected: Vec<(f64, usize, u32)>,
    unenforced: u32,
}

impl Bed {
    fn new(instances: usize, config: OutlierConfig) -> Self {
        fastrand::seed(7);
        let rules = Arc::new(FailureRules::new(&config));
        let now = Instant::now();
        Self {
            detector: Detector::new(config, now),
            records: (0..instances).map(|_| Record::new(rules.clone(), Arc::default())).collect(),
            standings: (0..instances).map(|_| EjectionState::default()).collect(),
            began: now,
            now,
            calls: 0,
            ejected: Vec::new(),
            unenforced: 0,
        }
    }

    fn judge(&mut self, with: impl FnOnce(&mut Detector, &mut [OutlierCandidate<'_>], Instant) -> Sweep) {
        let before: Vec<u32> = self.standings.iter().map(EjectionState::ejections).collect();
        let both = self.records.iter().zip(&mut self.standings);
        let mut candidates: Vec<_> =
            both.map(|(record, ejection)| OutlierCandidate { record, ejection }).collect();
        self.unenforced += with(&mut self.detector, &mut candidates, self.now).unenforced;
        for (i, ejection) in self.standings.iter().enumerate() {
            if ejection.ejections > before[i] {
                self.ejected.push(((self.now - self.began).as_secs_f64(), i, ejection.ejections));
            }
        }
    }

    /// 200 calls a second for so long; `ends` gives the end of the `n`th call
    /// of an instance at a time.
    fn run(&mut self, seconds: u64, mut ends: impl FnMut(usize, f64) -> Outcome) {
        for _ in 0..seconds * 200 {
            self.now += SECOND / 200;
            let at = (self.now - self.began).as_secs_f64();
            if self.detector.next_sweep() <= self.now {
                self.judge(Detector::sweep);
            }
            for i in 0..self.records.len() {
                if self.standings[i].advance(self.now) {
                    // The probe.
                    match ends(i, at) {
                        OK => self.standings[i].restore(&self.records[i], self.now),
                        _ => self.judge(|detector, candidates, now| {
                            detector.eject_again(&mut candidates[i], now);
                            Sweep::default()
                        }),
                    }
                }
            }
            let ins: Vec<usize> = (0..self.records.len()).filter(|&i| self.is_in(i)).collect();
            self.calls += 1;
            if let Some(&i) = ins.get(self.calls % ins.len().max(1)) {
                self.records[i].observe(ends(i, at));
                self.judge(|detector, candidates, now| detector.check_acute(candidates, now));
            }
        }
    }

    fn is_in(&self, i: usize) -> bool {
        self.standings[i].phase == Phase::In
    }

    fn times(&self, of: usize) -> Vec<f64> {
        self.ejected.iter().filter(|(_, i, _)| *i == of).map(|(at, _, _)| *at).collect()
    }
}

fn one_in_two(_: usize, _: f64) -> Outcome {
    if fastrand::bool() { FAILED } else { OK }
}

#[test]
fn one_of_three_that_always_fails_is_out_at_once() {
    let mut bed = Bed::new(3, OutlierConfig::default());
    bed.run(20, |i, at| if i == 1 && at > 3.0 { FAILED } else { OK });
    let (at, i, _) = bed.ejected[0];
    assert!(i == 1 && at < 3.2, "{:?}", bed.ejected);
    assert!(bed.ejected.iter().all(|(_, i, _)| *i == 1), "{:?}", bed.ejected);
}

#[test]
fn one_of_three_that_fails_every_other_call_is_out_in_ten_seconds_and_back_in_sixty() {
    for in_turn in [false, true] {
        for onset in [0.1, 2.5, 4.9] {
            let mut bed = Bed::new(3, OutlierConfig::default());
            let mut n = 0;
            bed.run(100, |i, at| {
                n += 1;
                let fails = if in_turn { n % 2 == 0 } else { fastrand::bool() };
                if i == 2 && (onset..40.0).contains(&at) && fails { FAILED } else { OK }
            });
            let what = format!("in turn: {in_turn}, from {onset} s: {:?}", bed.ejected);
            assert!(bed.ejected.iter().all(|(_, i, _)| *i == 2), "a healthy one: {what}");
            let times = bed.times(2);
            assert!(times[0] - onset < 9.0, "{what}");
            assert!(bed.is_in(2) && times.iter().all(|at| *at < 100.0 - 30.0), "{what}");
        }
    }
}

#[test]
fn a_fault_of_the_whole_service_ejects_nobody() {
    let mut bed = Bed::new(3, OutlierConfig::default());
    bed.run(60, |i, at| if at < 10.0 { OK } else { one_in_two(i, at) });
    assert_eq!(bed.ejected, [], "half of all calls fail");

    let mut bed = Bed::new(5, OutlierConfig::default());
    bed.run(60, |_, at| if at < 10.0 { OK } else { FAILED });
    assert_eq!(bed.ejected, [], "all calls fail");
}

#[test]
fn a_few_failures_here_and_there_eject_nobody() {
    for instances in [2, 3, 10] {
        let mut bed = Bed::new(instances, OutlierConfig::default());
        bed.run(300, |_, _| if fastrand::u8(..100) < 3 { FAILED } else { OK });
        assert_eq!(bed.ejected, [], "of {instances}");
    }
}

#[test]
fn each_ejection_is_longer_than_the_last_up_to_the_most_and_quiet_forgets_them() {
    let mut bed = Bed::new(3, OutlierConfig::default());
    bed.run(400, |i, _| if i == 0 { FAILED } else { OK });
    let times = bed.times(0);
    let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps[..7].windows(2).all(|pair| pair[0] < pair[1]), "{gaps:?}");
    assert!(gaps.iter().all(|gap| *gap < 45.0 * 1.1 + 0.1), "{gaps:?}");
    let most = bed.standings[0].ejections();
    bed.run(60, |_, _| OK);
    assert!(bed.is_in(0));
    assert!(bed.standings[0].ejections() < most, "{most} before");
    bed.run(60, |_, _| OK);
    assert_eq!(bed.standings[0].ejections(), 0);
}

#[test]
fn an_instance_that_is_well_and_ill_in_turn_is_out_longer_and_longer() {
    let mut bed = Bed::new(3, OutlierConfig::default());
    bed.run(90, |i, at| if i == 0 && at % 2.0 < 1.0 { FAILED } else { OK });
    let counts: Vec<u32> = bed.ejected.iter().map(|(_, _, count)| *count).collect();
    assert!(counts.iter().max() >= Some(&4), "{:?}", bed.ejected);
    assert!(bed.ejected.iter().all(|(_, i, _)| *i == 0));
}

#[test]
fn at_most_half_is_ejected_and_one_of_two_may_be() {
    let mut bed = Bed::new(5, OutlierConfig::default());
    bed.run(4, |i, _| if i < 3 { FAILED } else { OK });
    assert_eq!((0..5).filter(|&i| !bed.is_in(i)).count(), 2);
    assert!(bed.unenforced > 0);

    let mut bed = Bed::new(2, OutlierConfig::default());
    bed.run(2, |i, _| if i == 0 { FAILED } else { OK });
    assert!(!bed.is_in(0) && bed.is_in(1));

    let mut bed = Bed::new(1, OutlierConfig::default());
    bed.run(2, |_, _| FAILED);
    assert!(bed.is_in(0), "the only one stays");
}

#[test]
fn lost_connections_eject_the_third_time_and_then_each_time() {
    let mut bed = Bed::new(3, OutlierConfig::default());
    let lose = |bed: &mut Bed, i: usize| {
        bed.standings[i].lost_connection();
        bed.judge(|detector, candidates, now| detector.check_acute(candidates, now));
    };
    for _ in 0..2 {
        lose(&mut bed, 1);
        bed.run(3, |_, _| OK);
    }
    assert!(bed.is_in(1));
    lose(&mut bed, 1);
    assert_eq!(bed.standings[1].ejections(), 1);
    bed.run(7, |_, _| OK);
    assert!(bed.is_in(1));
    lose(&mut bed, 1);
    assert_eq!((bed.is_in(1), bed.standings[1].ejections()), (false, 2));
}

#[test]
fn lost_connections_with_quiet_in_between_or_of_all_alike_eject_nobody() {
    let mut bed = Bed::new(3, OutlierConfig::default());
    for _ in 0..5 {
        bed.standings[1].lost_connection();
        bed.run(11, |_, _| OK);
    }
    for _ in 0..5 {
        for i in 0..3 {
            bed.standings[i].lost_connection();
        }
        bed.run(1, |_, _| OK);
    }
    assert_eq!(bed.ejected, []);
}

#[test]
fn a50_is_followed_to_the_letter_where_it_is_asked_for() {
    let rates = |bed: &mut Bed, failures: &[u32]| {
        for (record, failed) in bed.records.iter().zip(failures) {
            (0..*failed).for_each(|_| record.observe(FAILED));
            (*failed..100).for_each(|_| record.observe(OK));
        }
        bed.now += 10 * SECOND;
        bed.judge(Detector::sweep);
        bed.ejected.iter().map(|(_, i, _)| *i).collect::<Vec<_>>()
    };
    let a50 = |success_rate: bool| OutlierConfig {
        success_rate: success_rate.then(SuccessRate::default),
        failure_percentage: (!success_rate).then(FailurePercentage::a50),
        max_ejection_percent: 100,
        ..OutlierConfig::a50()
    };
    // The mean is 80 %, the deviation 40: 2 deviations below is below 1.9.
    assert_eq!(rates(&mut Bed::new(5, a50(true)), &[100, 0, 0, 0, 0]), [0]);
    assert_eq!(rates(&mut Bed::new(5, a50(true)), &[100, 100, 0, 0, 0]), NO_INSTANCES);
    assert_eq!(rates(&mut Bed::new(4, a50(true)), &[100, 0, 0, 0]), NO_INSTANCES, "too few hosts");
    assert_eq!(rates(&mut Bed::new(5, a50(false)), &[86, 85, 0, 0, 0]), [0]);
    assert_eq!(rates(&mut Bed::new(5, a50(false)), &[100, 100, 100, 100, 100]), [0, 1, 2, 3, 4]);

    let never = OutlierConfig {
        success_rate: Some(SuccessRate { enforcement_percentage: 0, ..SuccessRate::default() }),
        ..OutlierConfig::a50()
    };
    let mut bed = Bed::new(5, never);
    assert_eq!(rates(&mut bed, &[100, 0, 0, 0, 0]), NO_INSTANCES);
    assert_eq!(bed.unenforced, 1);
}
