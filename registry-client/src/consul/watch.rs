//! The watch engine for resources of Consul.
//!
//! [`follow`] queries, decides, compares and notifies: a [`Resource`] has the
//! request and its parser, [`cursor`] the decision about a response, [`pace`]
//! the rate. The current value survives every failure.

pub(super) mod cursor;
pub(super) mod pace;
#[cfg(test)]
mod tests;

use std::{fmt, mem::Discriminant, sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};

use self::{
    cursor::{BlockingBy, Cursor, Doubt, ReadDecision, decide},
    pace::{FailureLog, Pace, TokenBucket, jittered},
};
use super::{
    Client, Error,
    http::{HttpCall, HttpResponse},
};
use crate::{backoff::Backoff, resolve::RegistryCounters};

/// The longest backoff while a local agent is unreachable: connecting to a
/// closed local port is cheap, and discovery is back seconds after the agent.
const MAX_LOCAL_BACKOFF: Duration = Duration::from_secs(4);

/// A source of blocking queries: a client, or a script in tests.
pub(super) trait QuerySource: Send + Sync {
    /// Queries the content after `cursor`, and waits for it at most `wait`.
    fn query(
        &self,
        call: &HttpCall,
        cursor: &Cursor,
        wait: Duration,
    ) -> impl Future<Output = Result<HttpResponse, Error>> + Send;

    /// The address, for messages.
    fn addr(&self) -> &str;

    /// Returns whether the agent runs on this machine.
    fn is_local(&self) -> bool;
}

impl QuerySource for Client {
    async fn query(&self, call: &HttpCall, cursor: &Cursor, wait: Duration) -> Result<HttpResponse, Error> {
        self.wait(call, cursor, wait).await
    }

    fn addr(&self) -> &str {
        self.addr()
    }

    fn is_local(&self) -> bool {
        self.is_local()
    }
}

/// A resource of Consul that can be watched.
pub(super) trait Resource: fmt::Display + Send + Sync {
    /// The content; complete every time.
    type Value: Send;

    /// The kind of blocking query.
    const BLOCKING: BlockingBy;

    /// The request.
    fn call(&self) -> Result<HttpCall, Error>;

    /// Parses a response, which may be a 404.
    fn read(&self, response: &HttpResponse) -> Result<Self::Value, Error>;

    /// The difference of `new` from the current value, without volatile parts.
    fn compare(&self, current: Option<&Self::Value>, new: &Self::Value) -> Change;

    /// Logs that the resource cannot be read, once per failure. Empty for a
    /// watch whose user logs failures.
    fn log_failure(&self, words: &str, is_kept: bool) {
        let is_kept = if is_kept { "; the last value is kept" } else { "" };
        tracing::warn!(watch = %self, "failed to read {self}: {words}{is_kept}");
    }

    /// Logs that the resource can be read again.
    fn log_recovery(&self) {
        tracing::info!(watch = %self, "{self} can be read again");
    }

    /// The counters of the queries, if any.
    fn counters(&self) -> Option<&RegistryCounters> {
        None
    }
}

/// The difference of a new value from the current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Same,
    /// The new value changes or adds something, and removes nothing.
    Differs,
    /// The new value lacks something. Without a current value, an empty one
    /// counts as this.
    Loses,
}

/// An event of a watch.
#[derive(Debug)]
pub(super) enum WatchEvent<'a, T> {
    /// The content changed, or was read for the first time.
    Changed(T),
    /// It could not be read; the last value still holds.
    Failed(&'a str),
    /// It can be read again and has not changed.
    Recovered(T),
}

/// Watches `resource`; never completes. Drop the future to end it.
pub(super) async fn follow<S: QuerySource, R: Resource>(
    source: &S,
    resource: &R,
    pace: Pace,
    mut notify: impl FnMut(WatchEvent<'_, &R::Value>),
) {
    let mut state = WatchState::new(pace);
    loop {
        state.bucket.take().await;
        let failure_delay = match query_once(source, resource, &mut state).await {
            Ok(Progress::Read(changed)) => {
                let record_failure = state.record_success(resource);
                match (&state.current, changed) {
                    (Some(value), true) => notify(WatchEvent::Changed(value)),
                    (Some(value), false) if record_failure => notify(WatchEvent::Recovered(value)),
                    _ => {}
                }
                if state.is_polling { jittered(pace.poll) } else { Duration::ZERO }
            }
            Ok(Progress::Restart) => Duration::ZERO,
            Err(failure) => {
                let (failure_delay, words) = state.record_failure(source, resource, &failure);
                notify(WatchEvent::Failed(&words));
                failure_delay
            }
        };
        if !failure_delay.is_zero() {
            sleep(failure_delay).await;
        }
    }
}

/// The state between two queries.
struct WatchState<T> {
    pace: Pace,
    cursor: Cursor,
    is_polling: bool,
    current: Option<T>,
    bucket: TokenBucket,
    backoff: Backoff,
    /// The kind of the last error.
    cause: Option<Discriminant<Error>>,
    failure_log: FailureLog,
}

enum Progress {
    /// The response was read; true if it changed anything.
    Read(bool),
    Restart,
}

/// The failure of a query.
enum QueryFailure {
    Error(Error),
    Doubt(Doubt),
}

impl From<Error> for QueryFailure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// Runs one query and evaluates its response.
async fn query_once<S: QuerySource, R: Resource>(
    source: &S,
    resource: &R,
    state: &mut WatchState<R::Value>,
) -> Result<Progress, QueryFailure> {
    let call = resource.call()?;
    if let Some(counters) = resource.counters() {
        counters.queries.add();
    }
    let response = source.query(&call, &state.cursor, state.pace.wait).await?;
    let (next, doubt, poll) = match decide(R::BLOCKING, &state.cursor, &response.meta) {
        ReadDecision::Read { next, doubt, poll } => (next, doubt, poll),
        ReadDecision::Restart(why) => {
            tracing::debug!(watch = %resource, "querying from the start: {why}");
            state.cursor = Cursor::Start;
            return Ok(Progress::Restart);
        }
    };
    let value = resource.read(&response)?;
    let change = resource.compare(state.current.as_ref(), &value);
    if change == Change::Loses && response.meta.streaming && state.cursor != Cursor::Start {
        // A stream reports neither that its server lost the leader nor that the
        // token lost a permission; the response to a query from the start does.
        tracing::debug!(watch = %resource, "querying from the start: a streaming response lacks something");
        state.cursor = Cursor::Start;
        return Ok(Progress::Restart);
    }
    if let (Change::Loses, Some(doubt)) = (change, doubt) {
        return Err(QueryFailure::Doubt(doubt));
    }
    let changed = state.current.is_none() || change != Change::Same;
    if let Some(counters) = resource.counters() {
        counters.record_response();
        if !changed && state.cursor != Cursor::Start && state.cursor != next {
            counters.unchanged_wakes.add();
        }
    }
    state.cursor = next;
    state.is_polling = poll;
    if changed {
        state.current = Some(value);
    }
    Ok(Progress::Read(changed))
}

impl<T> WatchState<T> {
    fn new(pace: Pace) -> Self {
        Self {
            pace,
            cursor: Cursor::Start,
            is_polling: false,
            current: None,
            bucket: TokenBucket::new(2, pace.refill),
            backoff: pace.backoff(),
            cause: None,
            failure_log: FailureLog::default(),
        }
    }

    /// Records a success; returns whether it had failed before.
    fn record_success(&mut self, resource: &impl Resource) -> bool {
        self.backoff.reset();
        self.cause = None;
        let record_failure = self.failure_log.clear();
        if record_failure {
            resource.log_recovery();
        }
        record_failure
    }

    /// Records a failure; returns the delay and the error text.
    fn record_failure(
        &mut self,
        source: &impl QuerySource,
        resource: &impl Resource,
        failure: &QueryFailure,
    ) -> (Duration, String) {
        if let Some(counters) = resource.counters() {
            counters.errors.add();
        }
        // The old index may be invalid after a failure.
        self.cursor = Cursor::Start;
        let (failure_delay, words) = match failure {
            QueryFailure::Error(e) => (self.failure_delay(source, e), e.to_string()),
            QueryFailure::Doubt(doubt) => {
                let words = format!(
                    "Consul at {} lists less than before, which is ignored because {doubt}; if that lasts, \
                     look at its servers with `consul operator raft list-peers`",
                    source.addr()
                );
                (self.backoff.next(), words)
            }
        };
        if self.failure_log.should_log(&words) {
            resource.log_failure(&words, self.current.is_some());
        } else {
            tracing::debug!(watch = %resource, "still failing to read {resource}: {words}");
        }
        (failure_delay, words)
    }

    fn failure_delay(&mut self, source: &impl QuerySource, error: &Error) -> Duration {
        if !error.is_retryable() {
            return jittered(self.pace.permanent_failure_delay);
        }
        // An agent that responds again after an outage, even with an error,
        // begins a new backoff.
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

/// The view of a watched resource.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct View<T> {
    /// The newest content; `None` until the first response.
    pub value: Option<T>,
    /// The error of the last query; the value beside it is the last good one.
    pub error: Option<Arc<str>>,
}

impl<T> Default for View<T> {
    fn default() -> Self {
        Self { value: None, error: None }
    }
}

impl<T: Clone> View<T> {
    /// Applies an event; returns whether anything changed.
    pub(super) fn apply(&mut self, news: WatchEvent<'_, &T>) -> bool {
        match news {
            WatchEvent::Changed(value) => *self = Self { value: Some(value.clone()), error: None },
            WatchEvent::Recovered(_) => self.error = None,
            WatchEvent::Failed(words) if self.error.as_deref() == Some(words) => return false,
            WatchEvent::Failed(words) => self.error = Some(words.into()),
        }
        true
    }
}

/// Watches `resource` in a task that ends when the last receiver is dropped.
pub(super) fn spawn<R>(client: Client, resource: R, pace: Pace) -> watch::Receiver<View<R::Value>>
where
    R: Resource + 'static,
    R::Value: Clone + Sync,
{
    let (sender, receiver) = watch::channel(View::default());
    tokio::spawn(async move {
        let followed = follow(&client, &resource, pace, |news| {
            sender.send_if_modified(|view| view.apply(news));
        });
        tokio::select! {
            () = sender.closed() => {}
            () = followed => {}
        }
    });
    receiver
}
