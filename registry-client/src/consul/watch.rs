//! The one engine behind every read that follows a resource of Consul's.
//!
//! [`follow`] asks, judges, compares and tells: a [`Resource`] says what to ask
//! and how to read it, [`cursor`] what a response is worth, [`pace`] how fast
//! to go. Data that is held survives every failure.

pub(super) mod cursor;
pub(super) mod pace;
#[cfg(test)]
mod tests;

use std::{fmt, mem::Discriminant, sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};

use self::{
    cursor::{By, Cursor, Doubt, Verdict, judge},
    pace::{Bucket, Complaint, Pace, jittered},
};
use super::{
    Client, Error,
    http::{Answer, Call},
};
use crate::{backoff::Backoff, resolve::RegistryCounters};

/// The longest backoff spares servers that many ask. Knocking at a closed
/// port of this machine costs nobody anything, and discovery is back seconds
/// after the agent.
const MAX_LOCAL_BACKOFF: Duration = Duration::from_secs(4);

/// Who answers blocking queries: a client, or a script in tests.
pub(super) trait Source: Send + Sync {
    /// Asks for what comes after `cursor`, for at most `wait`.
    fn ask(
        &self,
        call: &Call,
        cursor: &Cursor,
        wait: Duration,
    ) -> impl Future<Output = Result<Answer, Error>> + Send;

    /// Who that is, for messages.
    fn addr(&self) -> &str;

    /// Returns whether it runs on this machine.
    fn is_local(&self) -> bool;
}

impl Source for Client {
    async fn ask(&self, call: &Call, cursor: &Cursor, wait: Duration) -> Result<Answer, Error> {
        self.wait(call, cursor, wait).await
    }

    fn addr(&self) -> &str {
        self.addr()
    }

    fn is_local(&self) -> bool {
        self.is_local()
    }
}

/// Something of Consul's that can be followed.
pub(super) trait Resource: fmt::Display + Send + Sync {
    /// What is read; all of it, every time.
    type Value: Send;

    /// By what it blocks.
    const BY: By;

    /// What to ask.
    fn call(&self) -> Result<Call, Error>;

    /// Reads a response, which may be a 404.
    fn read(&self, answer: &Answer) -> Result<Self::Value, Error>;

    /// How `new` differs from what is held, volatile parts left out.
    fn compare(&self, held: Option<&Self::Value>, new: &Self::Value) -> Change;

    /// Says that it cannot be read, once for as long as that lasts. A watch
    /// whose user says it himself leaves it out.
    fn complain(&self, words: &str, kept: bool) {
        let kept = if kept { "; what was known is kept" } else { "" };
        tracing::warn!(watch = %self, "{self} cannot be read: {words}{kept}");
    }

    /// Says that this is over.
    fn relax(&self) {
        tracing::info!(watch = %self, "{self} can be read again");
    }

    /// The counters of its queries; `None` where nobody reads them.
    fn counters(&self) -> Option<&RegistryCounters> {
        None
    }
}

/// How a new response differs from what is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Same,
    /// It changes or adds, and takes nothing away.
    Differs,
    /// Something that is held is missing in it. When nothing is held, an empty
    /// response counts as this.
    Loses,
}

/// What a watch tells.
#[derive(Debug)]
pub(super) enum News<'a, T> {
    /// The content changed, or is there for the first time.
    Changed(T),
    /// It could not be read; what was told before still stands.
    Failed(&'a str),
    /// It can be read again and has not changed meanwhile.
    Recovered(T),
}

/// Follows `resource` for ever; drop the future to end it.
pub(super) async fn follow<S: Source, R: Resource>(
    source: &S,
    resource: &R,
    pace: Pace,
    mut tell: impl FnMut(News<'_, &R::Value>),
) {
    let mut state = State::new(pace);
    loop {
        state.bucket.take().await;
        let pause = match step(source, resource, &mut state).await {
            Ok(Progress::Told(changed)) => {
                let failed = state.worked(resource);
                match (&state.held, changed) {
                    (Some(value), true) => tell(News::Changed(value)),
                    (Some(value), false) if failed => tell(News::Recovered(value)),
                    _ => {}
                }
                if state.polls { jittered(pace.poll) } else { Duration::ZERO }
            }
            Ok(Progress::AskAgain) => Duration::ZERO,
            Err(trouble) => {
                let (pause, words) = state.failed(source, resource, &trouble);
                tell(News::Failed(&words));
                pause
            }
        };
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }
}

/// What is kept from one question to the next.
struct State<T> {
    pace: Pace,
    cursor: Cursor,
    polls: bool,
    held: Option<T>,
    bucket: Bucket,
    backoff: Backoff,
    /// What the last question failed by.
    cause: Option<Discriminant<Error>>,
    complaint: Complaint,
}

enum Progress {
    /// The response was good; whether it changed anything.
    Told(bool),
    AskAgain,
}

/// Why a question brought nothing.
enum Trouble {
    Error(Error),
    Doubt(Doubt),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// One question and what its response is worth.
async fn step<S: Source, R: Resource>(
    source: &S,
    resource: &R,
    state: &mut State<R::Value>,
) -> Result<Progress, Trouble> {
    let call = resource.call()?;
    if let Some(counters) = resource.counters() {
        counters.queries.add();
    }
    let answer = source.ask(&call, &state.cursor, state.pace.wait).await?;
    let (next, doubt, poll) = match judge(R::BY, &state.cursor, &answer.meta) {
        Verdict::Read { next, doubt, poll } => (next, doubt, poll),
        Verdict::AskAgain(why) => {
            tracing::debug!(watch = %resource, "asking from the start: {why}");
            state.cursor = Cursor::Start;
            return Ok(Progress::AskAgain);
        }
    };
    let value = resource.read(&answer)?;
    let change = resource.compare(state.held.as_ref(), &value);
    if change == Change::Loses && answer.meta.streaming && state.cursor != Cursor::Start {
        // A stream tells neither that its server lost the leader nor that the
        // token lost a right; the response to a question from the start does.
        tracing::debug!(watch = %resource, "asking from the start: something is missing in a streaming answer");
        state.cursor = Cursor::Start;
        return Ok(Progress::AskAgain);
    }
    if let (Change::Loses, Some(doubt)) = (change, doubt) {
        return Err(Trouble::Doubt(doubt));
    }
    let changed = state.held.is_none() || change != Change::Same;
    if let Some(counters) = resource.counters() {
        counters.record_response();
        if !changed && state.cursor != Cursor::Start && state.cursor != next {
            counters.unchanged_wakes.add();
        }
    }
    state.cursor = next;
    state.polls = poll;
    if changed {
        state.held = Some(value);
    }
    Ok(Progress::Told(changed))
}

impl<T> State<T> {
    fn new(pace: Pace) -> Self {
        Self {
            pace,
            cursor: Cursor::Start,
            polls: false,
            held: None,
            bucket: Bucket::new(2, pace.refill),
            backoff: pace.backoff(),
            cause: None,
            complaint: Complaint::default(),
        }
    }

    /// True when it had failed before.
    fn worked(&mut self, resource: &impl Resource) -> bool {
        self.backoff.reset();
        self.cause = None;
        let failed = self.complaint.ends();
        if failed {
            resource.relax();
        }
        failed
    }

    /// How long to wait, and the words for it.
    fn failed(
        &mut self,
        source: &impl Source,
        resource: &impl Resource,
        trouble: &Trouble,
    ) -> (Duration, String) {
        if let Some(counters) = resource.counters() {
            counters.errors.add();
        }
        // The index of before may be meaningless after whatever happened.
        self.cursor = Cursor::Start;
        let (pause, words) = match trouble {
            Trouble::Error(e) => (self.pause(source, e), e.to_string()),
            Trouble::Doubt(doubt) => {
                let words = format!(
                    "Consul at {} told less than before and is not believed, for {doubt}; if that lasts, \
                     look at its servers with `consul operator raft list-peers`",
                    source.addr()
                );
                (self.backoff.next(), words)
            }
        };
        if self.complaint.is_news(&words) {
            resource.complain(&words, self.held.is_some());
        } else {
            tracing::debug!(watch = %resource, "{resource} still cannot be read: {words}");
        }
        (pause, words)
    }

    fn pause(&mut self, source: &impl Source, error: &Error) -> Duration {
        if !error.is_retryable() {
            return jittered(self.pace.slow);
        }
        // An agent that was down for long and answers again, if only that it
        // has no leader yet, is another matter than before.
        let cause = std::mem::discriminant(error);
        if self.cause.replace(cause).is_some_and(|before| before != cause) {
            self.backoff.reset();
        }
        match error {
            Error::Unreachable { .. } if source.is_local() => self.backoff.next_at_most(MAX_LOCAL_BACKOFF),
            _ => self.backoff.next(),
        }
    }
}

/// What is known of something that is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct View<T> {
    /// The newest content; `None` until the first response.
    pub value: Option<T>,
    /// Why the last look failed, in words; the value beside it is the last
    /// good one.
    pub error: Option<Arc<str>>,
}

impl<T> Default for View<T> {
    fn default() -> Self {
        Self { value: None, error: None }
    }
}

impl<T: Clone> View<T> {
    /// True when the news changed something.
    pub(super) fn take(&mut self, news: News<'_, &T>) -> bool {
        match news {
            News::Changed(value) => *self = Self { value: Some(value.clone()), error: None },
            News::Recovered(_) => self.error = None,
            News::Failed(words) if self.error.as_deref() == Some(words) => return false,
            News::Failed(words) => self.error = Some(words.into()),
        }
        true
    }
}

/// Follows `resource` in a task of its own that ends when the last receiver
/// is dropped.
pub(super) fn spawn<R>(client: Client, resource: R, pace: Pace) -> watch::Receiver<View<R::Value>>
where
    R: Resource + 'static,
    R::Value: Clone + Sync,
{
    let (sender, receiver) = watch::channel(View::default());
    tokio::spawn(async move {
        let followed = follow(&client, &resource, pace, |news| {
            sender.send_if_modified(|view| view.take(news));
        });
        tokio::select! {
            () = sender.closed() => {}
            () = followed => {}
        }
    });
    receiver
}
