//! The engine against a script, on a paused clock.

use std::{collections::VecDeque, sync::Mutex};

use tokio::time::{Instant, timeout};

use super::{cursor::Meta, *};
use crate::{consul::TokenState, telemetry::Counter};

/// A list of numbers, in any order.
#[derive(Default)]
struct Numbers(RegistryCounters);

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("numbers")
    }
}

impl Resource for Numbers {
    type Value = Vec<u32>;
    const BLOCKING: BlockingBy = BlockingBy::Index;

    fn call(&self) -> Result<HttpCall, Error> {
        Ok(HttpCall::get("/v1/numbers", "nothing"))
    }

    fn read(&self, answer: &HttpResponse) -> Result<Vec<u32>, Error> {
        let mut numbers: Vec<u32> = serde_json::from_slice(&answer.body).unwrap();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn compare(&self, current: Option<&Vec<u32>>, new: &Vec<u32>) -> Change {
        match current {
            Some(current) if current == new => Change::Same,
            Some(current) if current.iter().any(|n| !new.contains(n)) => Change::Loses,
            None if new.is_empty() => Change::Loses,
            _ => Change::Differs,
        }
    }

    fn counters(&self) -> Option<&RegistryCounters> {
        Some(&self.0)
    }
}

/// A source with these responses in turn, then `then` for ever.
#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Result<HttpResponse, Error>>>,
    queries: Mutex<Vec<Cursor>>,
    then: Option<fn() -> Result<HttpResponse, Error>>,
    local: bool,
}

impl Script {
    fn of(answers: impl IntoIterator<Item = Result<HttpResponse, Error>>) -> Self {
        Self { answers: Mutex::new(answers.into_iter().collect()), ..Self::default() }
    }

    fn always(then: fn() -> Result<HttpResponse, Error>) -> Self {
        Self { then: Some(then), ..Self::default() }
    }

    fn queries(&self) -> Vec<Cursor> {
        self.queries.lock().unwrap().clone()
    }
}

impl QuerySource for Script {
    async fn query(&self, _: &HttpCall, cursor: &Cursor, _: Duration) -> Result<HttpResponse, Error> {
        self.queries.lock().unwrap().push(cursor.clone());
        let next = self.answers.lock().unwrap().pop_front();
        match (next, self.then) {
            (Some(answer), _) => answer,
            (None, Some(then)) => then(),
            (None, None) => std::future::pending().await,
        }
    }

    fn addr(&self) -> &str {
        "a:1"
    }

    fn is_local(&self) -> bool {
        self.local
    }
}

fn answer(numbers: &str, meta: Meta) -> Result<HttpResponse, Error> {
    Ok(HttpResponse { found: true, meta, body: numbers.to_owned().into() })
}

fn blocking(index: u64, numbers: &str) -> Result<HttpResponse, Error> {
    answer(numbers, Meta { index: Some(index), known_leader: true, ..Meta::default() })
}

fn streaming(index: u64, numbers: &str) -> Result<HttpResponse, Error> {
    answer(numbers, Meta { index: Some(index), streaming: true, ..Meta::default() })
}

fn leaderless(index: u64, numbers: &str) -> Result<HttpResponse, Error> {
    answer(numbers, Meta { index: Some(index), ..Meta::default() })
}

fn down() -> Result<HttpResponse, Error> {
    Err(Error::Unreachable { addr: "a:1".into(), cause: "refused".to_owned() })
}

fn no_leader() -> Result<HttpResponse, Error> {
    Err(Error::Unavailable { addr: "a:1".into(), status: 500, message: "No cluster leader".to_owned() })
}

fn denied() -> Result<HttpResponse, Error> {
    let (addr, path, message, needs) = ("a:1".into(), String::new(), String::new(), String::new());
    Err(Error::Denied { addr, path, message, needs, token: TokenState::Missing })
}

fn bad_request() -> Result<HttpResponse, Error> {
    Err(Error::BadRequest {
        addr: "a:1".into(),
        path: String::new(),
        status: 400,
        message: "filter".to_owned(),
    })
}

/// The events within ten minutes, a word each.
async fn published(script: &Script) -> Vec<String> {
    let mut published = Vec::new();
    let numbers = Numbers::default();
    let followed = follow(script, &numbers, Pace::default(), |news| {
        published.push(match news {
            WatchEvent::Changed(numbers) => format!("{numbers:?}"),
            WatchEvent::Failed(words) => words.split([':', ';']).next().unwrap().to_owned(),
            WatchEvent::Recovered(_) => "recovered".to_owned(),
        });
    });
    let _ = timeout(Duration::from_secs(600), followed).await;
    published
}

#[tokio::test(start_paused = true)]
async fn only_changes_are_reported_whatever_their_order() {
    let script = Script::of([
        blocking(5, "[1,2]"),
        blocking(6, "[2,1]"),
        streaming(7, "[2,1,3]"),
        streaming(8, "[3]"),
        blocking(8, "[3]"),
        streaming(8, "[3]"),
    ]);
    assert_eq!(published(&script).await, ["[1, 2]", "[1, 2, 3]", "[3]"]);
    let queries = [0, 5, 6, 7, 0, 8, 8].map(|i| if i == 0 { Cursor::Start } else { Cursor::Index(i) });
    assert_eq!(script.queries(), queries);
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_in_a_stream_is_believed_only_when_a_question_from_the_start_says_so() {
    let script =
        Script::of([blocking(5, "[1,2]"), streaming(6, "[1]"), blocking(6, "[1,2]"), streaming(7, "[]")]);
    assert_eq!(published(&script).await, ["[1, 2]"]);
    let queries = [Cursor::Start, Cursor::Index(5), Cursor::Start, Cursor::Index(6), Cursor::Start];
    assert_eq!(script.queries(), queries);
}

#[tokio::test(start_paused = true)]
async fn a_streaming_answer_without_an_index_is_none() {
    let script = Script::of([blocking(5, "[1]"), streaming(1, "[]"), blocking(5, "[1]")]);
    assert_eq!(published(&script).await, ["[1]"]);
    assert_eq!(script.queries(), [Cursor::Start, Cursor::Index(5), Cursor::Start, Cursor::Index(5)]);
}

#[tokio::test(start_paused = true)]
async fn an_index_that_went_backwards_is_asked_anew_from_the_start() {
    let script = Script::of([blocking(9, "[1]"), blocking(4, "[2]"), blocking(4, "[2,3]")]);
    assert_eq!(published(&script).await, ["[1]", "[2, 3]"]);
    assert_eq!(script.queries(), [Cursor::Start, Cursor::Index(9), Cursor::Start, Cursor::Index(4)]);
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_it_asks_from_the_start_and_says_when_it_works_again() {
    let script =
        Script::of([blocking(9, "[1]"), down(), down(), blocking(3, "[1]"), down(), blocking(4, "[2]")]);
    let down = "cannot reach Consul at a";
    assert_eq!(published(&script).await, ["[1]", down, down, "recovered", down, "[2]"]);
    assert_eq!(script.queries()[2..4], [Cursor::Start, Cursor::Start]);
}

#[tokio::test(start_paused = true)]
async fn a_smaller_answer_without_a_leader_is_not_believed() {
    let doubted = "Consul at a";
    let script = Script::of([
        leaderless(2, "[]"),
        blocking(5, "[1,2]"),
        leaderless(6, "[1]"),
        leaderless(6, "[1,2,3]"),
        blocking(7, "[1]"),
    ]);
    assert_eq!(published(&script).await, [doubted, "[1, 2]", doubted, "[1, 2, 3]", "[1]"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_woken_all_the_time_asks_no_more_than_twice_a_second() {
    let script = Script::always(|| blocking(5, "[1]"));
    assert_eq!(published(&script).await, ["[1]"]);
    let queries = script.queries().len();
    assert!((1_000..=1_202).contains(&queries), "{queries} questions in 600 s");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_down_is_asked_seldom_and_for_ever() {
    let script = Script::always(down);
    published(&script).await;
    let queries = script.queries().len();
    assert!((20..=90).contains(&queries), "{queries} questions in 600 s");
}

#[tokio::test(start_paused = true)]
async fn an_agent_of_this_machine_is_found_again_within_seconds() {
    let script = Script { local: true, ..Script::always(down) };
    published(&script).await;
    let queries = script.queries().len();
    assert!((150..=700).contains(&queries), "{queries} questions in 600 s");
    // A responding agent gets the normal backoff, even a local one.
    let script = Script { local: true, ..Script::always(no_leader) };
    published(&script).await;
    let queries = script.queries().len();
    assert!((20..=90).contains(&queries), "{queries} questions in 600 s");
}

#[tokio::test(start_paused = true)]
async fn a_long_outage_does_not_slow_what_comes_after_it() {
    for _ in 0..20 {
        let script = Script::of((0..30).map(|_| down()).chain([no_leader(), blocking(5, "[1]")]));
        let mut left = None;
        let numbers = Numbers::default();
        let followed = follow(&script, &numbers, Pace::default(), |news| match (&news, left) {
            (WatchEvent::Failed(words), None) if words.contains("No cluster leader") => {
                left = Some(Instant::now());
            }
            (WatchEvent::Changed(_), Some(since)) => assert!(since.elapsed() <= Duration::from_millis(501)),
            _ => {}
        });
        let _ = timeout(Duration::from_secs(3_600), followed).await;
        assert!(left.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn what_only_a_person_can_repair_is_surfaced_and_not_spun_on() {
    for then in [denied, bad_request] {
        let script = Script::always(then);
        let published = published(&script).await;
        assert!((20..=41).contains(&script.queries().len()), "{} questions in 600 s", script.queries().len());
        assert_eq!(published.len(), script.queries().len());
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_waited_on_is_polled() {
    let script = Script::always(|| answer("[1]", Meta { known_leader: true, ..Meta::default() }));
    published(&script).await;
    let queries = script.queries();
    assert!(queries.iter().all(|cursor| *cursor == Cursor::Start));
    assert!((100..=260).contains(&queries.len()), "{} questions in 600 s", queries.len());
}

#[tokio::test(start_paused = true)]
async fn the_first_two_questions_do_not_wait() {
    let script = Script::of([blocking(5, "[1]")]);
    let start = Instant::now();
    let numbers = Numbers::default();
    let _ = timeout(Duration::from_millis(1), follow(&script, &numbers, Pace::default(), |_| ())).await;
    assert_eq!(script.queries().len(), 2);
    assert!(start.elapsed() <= Duration::from_millis(2));
}

#[tokio::test(start_paused = true)]
async fn queries_errors_and_vain_wakes_are_counted_and_the_last_good_answer_ages() {
    let script = Script::of([
        down(),
        blocking(5, "[1]"),
        blocking(6, "[1]"),
        // The wait ended: no wake.
        blocking(6, "[1]"),
        leaderless(7, "[]"),
        blocking(7, "[1]"),
        blocking(8, "[1,2]"),
    ]);
    let numbers = Numbers::default();
    assert_eq!(numbers.0.response_age(), None);
    let _ = timeout(Duration::from_secs(600), follow(&script, &numbers, Pace::default(), |_| ())).await;
    let Numbers(counters) = &numbers;
    let counted = [&counters.queries, &counters.errors, &counters.unchanged_wakes].map(Counter::get);
    assert_eq!(counted, [script.queries().len() as u64, 2, 1]);
    let age = counters.response_age().unwrap();
    assert!((Duration::from_secs(540)..Duration::from_secs(600)).contains(&age), "{age:?}");
}
