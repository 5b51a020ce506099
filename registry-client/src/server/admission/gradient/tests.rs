//! The limit before a simulated server: a first-come-first-served queue before
//! so many workers, on a clock that only the simulation moves.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
};

use fastrand::Rng;

use super::*;

const BOUNDS: Bounds = Bounds { min: 4, max: 1_000, initial: 1_000 };

/// The parameters of a simulation. Times in seconds.
struct Scene<'a> {
    workers: usize,
    deadline: f64,
    /// Calls per second at that time.
    rate: &'a dyn Fn(f64) -> f64,
    /// The service time of the next call at that time.
    work: &'a dyn Fn(f64, &mut Rng) -> f64,
    seconds: f64,
    seed: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Second {
    served: u32,
    expired: u32,
    refused: u32,
    least: usize,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives,
    Done(u64),
    Expires(u64),
}

struct Call {
    start: CallStart,
    works: bool,
}

struct Simulation<'a> {
    scene: &'a Scene<'a>,
    zero: Instant,
    limit: Gradient,
    rng: Rng,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    calls: BTreeMap<u64, Call>,
    queue: VecDeque<u64>,
    working: usize,
    next: u64,
}

impl Scene<'_> {
    /// The results of each second.
    fn run(&self) -> Vec<Second> {
        let zero = Instant::now();
        let mut simulation = Simulation {
            scene: self,
            zero,
            limit: Gradient::new(BOUNDS, zero),
            rng: Rng::with_seed(self.seed),
            events: BinaryHeap::new(),
            calls: BTreeMap::new(),
            queue: VecDeque::new(),
            working: 0,
            next: 0,
        };
        simulation.run()
    }
}

impl Simulation<'_> {
    fn run(&mut self) -> Vec<Second> {
        let mut seconds =
            vec![Second { least: usize::MAX, ..Second::default() }; self.scene.seconds as usize];
        self.at(0.0, Event::Arrives);
        while let Some(Reverse((nanos, _, event))) = self.events.pop() {
            let now = nanos as f64 / 1e9;
            let Some(second) = seconds.get_mut(now as usize) else { break };
            match event {
                Event::Arrives => {
                    if !self.arrive(now) {
                        second.refused += 1;
                    }
                    let gap = -self.rng.f64().max(1e-9).ln() / (self.scene.rate)(now);
                    self.at(now + gap, Event::Arrives);
                }
                Event::Done(call) => {
                    if self.end(call, now, CallEnd::Completed) {
                        second.served += 1;
                    }
                }
                Event::Expires(call) => {
                    if self.end(call, now, CallEnd::CutOff) {
                        second.expired += 1;
                    }
                }
            }
            second.least = second.least.min(self.limit.limit());
        }
        seconds
    }

    fn at(&mut self, time: f64, event: Event) {
        self.next += 1;
        self.events.push(Reverse(((time * 1e9) as u64, self.next, event)));
    }

    fn clock(&self, now: f64) -> Instant {
        self.zero + Duration::from_secs_f64(now)
    }

    fn arrive(&mut self, now: f64) -> bool {
        let among = self.calls.len() + 1;
        if among > 1 && among > self.limit.limit() {
            self.limit.reject(self.clock(now));
            return false;
        }
        let caller_timeout = Some(Duration::from_secs_f64(self.scene.deadline));
        let start = self.limit.begin(among, caller_timeout, self.clock(now));
        self.next += 1;
        let id = self.next;
        self.calls.insert(id, Call { start, works: false });
        self.queue.push_back(id);
        self.at(now + self.scene.deadline, Event::Expires(id));
        self.work(now);
        true
    }

    fn work(&mut self, now: f64) {
        while self.working < self.scene.workers {
            let Some(id) = self.queue.pop_front() else { return };
            let Some(call) = self.calls.get_mut(&id) else { continue };
            call.works = true;
            self.working += 1;
            let done = now + (self.scene.work)(now, &mut self.rng);
            self.at(done, Event::Done(id));
        }
    }

    fn end(&mut self, id: u64, now: f64, how: CallEnd) -> bool {
        let Some(call) = self.calls.remove(&id) else { return false };
        self.limit.end(&call.start, how, self.calls.len(), self.clock(now));
        self.working -= usize::from(call.works);
        self.work(now);
        true
    }
}

fn sum(seconds: &[Second], what: impl Fn(&Second) -> u32) -> f64 {
    f64::from(seconds.iter().map(what).sum::<u32>())
}

/// Service times: workers, and a distribution with its mean.
type Work = fn(f64, &mut Rng) -> f64;
const KINDS: [(&str, usize, f64, Work); 5] = [
    ("few cores", 2, 0.005, |_, _| 0.005),
    ("tiny calls", 2, 0.000_2, |_, rng| 0.000_4 * rng.f64()),
    ("a pool of connections", 100, 0.05, |_, rng| 0.1 * rng.f64()),
    ("slow calls", 2, 0.1, |_, rng| 0.05 + 0.1 * rng.f64()),
    ("hits and misses", 20, 0.010_9, |_, rng| if rng.f64() < 0.9 { 0.001 } else { 0.1 }),
];

#[test]
fn below_saturation_nothing_is_refused() {
    for (name, workers, mean, work) in KINDS {
        let rate = |_| 0.8 * workers as f64 / mean;
        for seed in 0..3 {
            let scene = Scene { workers, deadline: 15.0, rate: &rate, work: &work, seconds: 20.0, seed };
            assert_eq!(sum(&scene.run(), |s| s.refused), 0.0, "{name}, seed {seed}");
        }
    }
}

#[test]
fn at_three_times_capacity_the_server_goes_on_doing_what_it_can() {
    for (name, workers, mean, work) in KINDS {
        let capacity = workers as f64 / mean;
        let rate = |_| 3.0 * capacity;
        let scene = Scene { workers, deadline: 1.0, rate: &rate, work: &work, seconds: 60.0, seed: 7 };
        let seconds = scene.run();
        let goodput = sum(&seconds, |s| s.served) / (60.0 * capacity);
        assert!(goodput >= 0.8, "{name}: {goodput} of the capacity");
        let expired = sum(&seconds[10..], |s| s.expired) / sum(&seconds[10..], |s| s.served);
        assert!(expired <= 0.05, "{name}: {expired} of those let in were let in for nothing");
    }
}

#[test]
fn while_it_sheds_no_more_is_let_in_than_keeps_the_workers_busy() {
    let scene =
        Scene { workers: 4, deadline: 1.0, rate: &|_| 6_000.0, work: &|_, _| 0.002, seconds: 30.0, seed: 7 };
    let seconds = scene.run();
    // 500 would take a quarter of their time.
    assert!(seconds[8..].iter().all(|s| s.least <= 100), "{seconds:?}");
    let goodput = sum(&seconds[8..], |s| s.served) / (22.0 * 2_000.0);
    assert!(goodput >= 0.95, "{goodput}");
}

#[test]
fn a_limit_that_is_done_in_a_quarter_of_the_callers_time_shrinks_while_it_rejects() {
    let scene = Scene {
        workers: 1,
        deadline: 1.0,
        rate: &|_| 15_000.0,
        work: &|_, _| 0.000_2,
        seconds: 30.0,
        seed: 7,
    };
    let seconds = scene.run();
    // 1,000 would take 200 ms.
    assert!(seconds[3..].iter().all(|s| s.least <= 100), "{seconds:?}");
    assert!(seconds.iter().all(|s| f64::from(s.served) >= 0.95 * 5_000.0), "{seconds:?}");
}

#[test]
fn without_the_limit_the_same_overload_ends_all_useful_work() {
    let scene =
        Scene { workers: 2, deadline: 1.0, rate: &|_| 1_200.0, work: &|_, _| 0.005, seconds: 20.0, seed: 7 };
    let zero = Instant::now();
    let open = Bounds { min: 100_000, max: 100_000, initial: 100_000 };
    let mut simulation = Simulation {
        scene: &scene,
        zero,
        limit: Gradient::new(open, zero),
        rng: Rng::with_seed(scene.seed),
        events: BinaryHeap::new(),
        calls: BTreeMap::new(),
        queue: VecDeque::new(),
        working: 0,
        next: 0,
    };
    let seconds = simulation.run();
    let late: Vec<_> = seconds[10..].to_vec();
    // Those served are served at the end of their time; any hop before would have given up.
    assert!(sum(&late, |s| s.expired) > sum(&late, |s| s.served), "{late:?}");
}

#[test]
fn the_limit_never_falls_below_its_least_and_comes_back_when_the_fault_is_over() {
    // A dependency hangs from second 10 to 20, and 100 calls are under way before and after.
    let hangs = |now: f64| (10.0..20.0).contains(&now);
    let work = |now: f64, _: &mut Rng| if hangs(now) { 60.0 } else { 0.1 };
    let scene =
        Scene { workers: 1_000, deadline: 1.0, rate: &|_| 1_000.0, work: &work, seconds: 40.0, seed: 7 };
    let seconds = scene.run();
    assert!(seconds.iter().all(|s| s.least >= BOUNDS.min), "{seconds:?}");
    assert!(seconds[12..20].iter().any(|s| s.least <= 2 * BOUNDS.min), "{seconds:?}");
    assert_eq!(sum(&seconds[..10], |s| s.refused), 0.0);
    assert_eq!(sum(&seconds[25..], |s| s.refused), 0.0, "{:?}", &seconds[20..]);
}

#[test]
fn a_method_that_has_become_slower_for_good_is_let_grow_again() {
    // 100 under way at first, 500 later, none of them waiting for anything.
    let work = |now: f64, _: &mut Rng| if now < 10.0 { 0.1 } else { 0.5 };
    let scene =
        Scene { workers: 1_000, deadline: 15.0, rate: &|_| 1_000.0, work: &work, seconds: 60.0, seed: 7 };
    let seconds = scene.run();
    assert_eq!(sum(&seconds[40..], |s| s.refused), 0.0, "{seconds:?}");
}

#[test]
fn a_cold_start_is_not_taken_for_normal() {
    let work = |now: f64, _: &mut Rng| if now < 0.5 { 0.4 } else { 0.005 };
    let scene = Scene { workers: 2, deadline: 1.0, rate: &|_| 1_200.0, work: &work, seconds: 60.0, seed: 7 };
    let seconds = scene.run();
    let goodput = sum(&seconds[10..], |s| s.served) / (50.0 * 400.0);
    assert!(goodput >= 0.8, "{goodput}: {seconds:?}");
}

#[test]
fn a_burst_that_drains_by_itself_is_not_refused() {
    // 500 calls within a fifth of a second, every ten seconds, one worker.
    let rate = |now: f64| if now % 10.0 < 0.2 { 2_500.0 } else { 1.0 };
    let scene =
        Scene { workers: 4, deadline: 15.0, rate: &rate, work: &|_, _| 0.005, seconds: 60.0, seed: 7 };
    let seconds = scene.run();
    assert_eq!(sum(&seconds, |s| s.refused), 0.0, "{seconds:?}");
}

/// One method under constant load, a step of 5 ms at a time.
struct Steady {
    limit: Gradient,
    now: Instant,
}

impl Steady {
    fn new() -> Self {
        let now = Instant::now();
        Self { limit: Gradient::new(BOUNDS, now), now }
    }

    /// One call, let in among so many, that took so long.
    fn call(&mut self, among: usize, millis: u64, ended: CallEnd) {
        let began = self.now + Duration::from_millis(5) - Duration::from_millis(millis);
        let start = self.limit.begin(among, None, began.max(self.now - Duration::from_secs(2)));
        self.now += Duration::from_millis(5);
        self.limit.end(&start, ended, among - 1, self.now);
    }
}

#[test]
fn callers_without_patience_take_no_room_from_others() {
    let mut steady = Steady::new();
    for _ in 0..2_000 {
        steady.call(60, 20, CallEnd::Completed);
        steady.call(60, 5, CallEnd::CutOff);
    }
    assert_eq!(steady.limit.limit(), BOUNDS.initial);
}

#[test]
fn quick_failures_are_not_taken_for_quick_work() {
    let mut steady = Steady::new();
    for failed in [0, 1_000, 0] {
        for _ in 0..failed {
            steady.call(60, 1, CallEnd::Failed);
        }
        for _ in 0..500 {
            steady.call(60, 80, CallEnd::Completed);
        }
    }
    assert_eq!(steady.limit.limit(), BOUNDS.initial);
}

#[test]
fn nothing_under_way_means_that_the_limit_starts_anew() {
    let mut steady = Steady::new();
    steady.call(2, 1, CallEnd::Completed);
    for _ in 0..2_000 {
        steady.call(500, 1_000, CallEnd::Completed);
    }
    assert!(steady.limit.limit() < 500);
    steady.call(1, 1, CallEnd::Completed);
    assert_eq!(steady.limit.limit(), BOUNDS.initial);
}
