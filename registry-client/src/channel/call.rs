//! One call: attempts until there is an answer, all within one deadline.

use std::{
    fmt::Write as _,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderValue, header::Entry};
use pin_project_lite::pin_project;
use tokio::{
    sync::futures::OwnedNotified,
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

mod attempt;

use attempt::Attempt;

use super::{
    Core,
    answer::{Answer, Deadline, GRPC_STATUS, InFlight, drop_malformed_details},
    connection::Connection,
    failure::Failure,
    head::{Head, TIMEOUT},
    upload::{RequestBody, Rest, Upload},
};
use crate::{
    balance::ReadySet,
    code::Code,
    health::Ended,
    instance::InstanceId,
    policy::{
        Method, deadline,
        retry::{self, RetryPolicy, Tries},
    },
    telemetry::Explain,
};

pin_project! {
    /// The answer to a call, some time. Dropping it cancels the call.
    #[must_use = "a call does nothing unless polled"]
    pub struct Call {
        state: Result<State, Option<Status>>,
        #[pin]
        timer: Option<Sleep>,
    }
}

/// Everything a call is, apart from its timer.
struct State {
    core: Arc<Core>,
    head: Head,
    body: RequestBody,
    method: Method,
    /// When the call ends: bounds everything up to the head of the answer.
    deadline: Deadline,
    /// Whether `deadline` also bounds the answer's body.
    bounds_answer: bool,
    tries: Tries,
    /// Who failed this call already.
    tried: Vec<InstanceId>,
    explain: Option<Explain>,
    stage: Stage,
}

enum Stage {
    /// Choose an instance and send.
    Pick,
    /// For an instance to become ready, or for a delay to pass.
    Wait(Pin<Box<dyn Future<Output = ()> + Send>>),
    Sent(Attempt),
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call").finish_non_exhaustive()
    }
}

impl Call {
    /// A call that has failed before it began.
    pub(super) fn failed(status: Status) -> Self {
        Self { state: Err(Some(status)), timer: None }
    }

    pub(super) fn new(core: Arc<Core>, request: http::Request<tonic::body::Body>) -> Self {
        let (mut parts, body) = request.into_parts();
        let method = core.methods.get(parts.uri.path());
        // A stream that nobody bounded goes on as long as it likes: only the
        // wait for its head has the default limit, and the server is not told.
        let mut bounds_answer = true;
        let mut limit = core.config.deadline;
        match parts.headers.entry(TIMEOUT) {
            Entry::Occupied(given) => match deadline::parse(given.get().as_bytes()) {
                Some(given) => limit = given,
                None => return Self::failed(Failure::BadTimeout.into()),
            },
            Entry::Vacant(_) if method.streams_answer => bounds_answer = false,
            Entry::Vacant(free) => {
                free.insert(core.default_timeout.clone());
            }
        }
        let uri = match core.uri(parts.uri) {
            Ok(uri) => uri,
            Err(failure) => return Self::failed(failure.into()),
        };
        core.counters.calls.add();
        let state = State {
            core,
            head: Head::new(uri, parts.headers),
            body: RequestBody::new(body),
            method,
            deadline: Deadline { at: Instant::now() + limit, limit },
            bounds_answer,
            tries: Tries::default(),
            tried: Vec::new(),
            explain: parts.extensions.remove::<Explain>(),
            stage: Stage::Pick,
        };
        Self { state: Ok(state), timer: None }
    }
}

impl Future for Call {
    type Output = Result<http::Response<Answer>, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let state = match this.state {
            Ok(state) => state,
            Err(status) => {
                let again = || Status::internal("the call was polled after it had ended");
                return Poll::Ready(Err(status.take().unwrap_or_else(again)));
            }
        };
        let result = match state.poll(cx) {
            Poll::Ready(result) => result,
            Poll::Pending => {
                if this.timer.is_none() {
                    this.timer.set(Some(sleep_until(state.deadline.at)));
                }
                if let Some(timer) = this.timer.as_mut().as_pin_mut() {
                    ready!(timer.poll(cx));
                }
                Err(state.expired())
            }
        };
        // Ends the attempt, if one is under way, and with it its stream.
        *this.state = Err(None);
        this.timer.set(None);
        Poll::Ready(result.map_err(Into::into))
    }
}

impl State {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<http::Response<Answer>, Failure>> {
        loop {
            match &mut self.stage {
                Stage::Pick => self.stage = self.pick()?,
                Stage::Wait(wait) => {
                    ready!(wait.as_mut().poll(cx));
                    self.stage = Stage::Pick;
                }
                Stage::Sent(attempt) => match ready!(attempt.poll(&mut self.body, cx)) {
                    Ok(answer) => {
                        if let Some(answer) = self.accept(answer) {
                            return Poll::Ready(Ok(answer));
                        }
                    }
                    Err(failure) => self.after(failure)?,
                },
            }
        }
    }

    /// Sends to an instance, or begins to wait for one.
    fn pick(&mut self) -> Result<Stage, Failure> {
        let Some(connection) = self.choose() else {
            // Listen first and look again then, or a change in between would
            // be missed.
            let changes = self.core.view.changes();
            return match self.choose() {
                Some(connection) => self.send(connection),
                None => self.wait(changes),
            };
        };
        self.send(connection)
    }

    /// Waits for the pool to change, unless the call is to fail fast.
    fn wait(&self, changes: OwnedNotified) -> Result<Stage, Failure> {
        let snapshot = self.core.view.snapshot();
        if self.core.config.fail_fast && snapshot.ready.is_empty() && !snapshot.why.is_settling() {
            let why = snapshot.why.clone();
            return Err(Failure::NoInstance { service: self.core.service.clone(), why });
        }
        Ok(Stage::Wait(Box::pin(changes)))
    }

    /// Begins an attempt.
    fn send(&mut self, connection: Arc<Connection>) -> Result<Stage, Failure> {
        let left = (self.tries.sends() > 0 && self.bounds_answer)
            .then(|| self.deadline.at.saturating_duration_since(Instant::now()));
        match connection.send(self.head.next(self.tries.sends(), left), false) {
            Ok((answer, stream)) => {
                self.core.counters.attempts.add();
                let in_flight = InFlight::on(connection);
                Ok(Stage::Sent(Attempt { answer, upload: Some(Upload::new(stream)), in_flight }))
            }
            Err(error) => {
                let failure = Failure::NotSent { to: connection.peer.clone(), cause: Arc::new(error) };
                self.note(&failure);
                self.tried.push(connection.peer.id.clone());
                self.retry(&failure).ok_or(failure)
            }
        }
    }

    /// The connection to send on; `None` when no instance is ready.
    fn choose(&self) -> Option<Arc<Connection>> {
        let snapshot = self.core.view.snapshot();
        let index = if self.tried.is_empty() {
            self.core.picker.pick(&snapshot.ready)?
        } else {
            self.choose_another(&snapshot.ready)?
        };
        let connection = snapshot.connections.get(index)?.clone();
        if let Some(explain) = &self.explain {
            let why = self.explain(&snapshot.ready);
            explain.begin(connection.peer.id.clone(), connection.peer.address.clone(), why);
        }
        Some(connection)
    }

    /// As the picker says among those that have not failed this call; among
    /// all when every one has.
    fn choose_another(&self, ready: &ReadySet) -> Option<usize> {
        let (indices, others): (Vec<_>, Vec<_>) = ready
            .candidates()
            .iter()
            .enumerate()
            .filter(|(_, candidate)| !self.tried.contains(&candidate.id))
            .map(|(index, candidate)| (index, candidate.clone()))
            .unzip();
        if others.is_empty() {
            return self.core.picker.pick(ready);
        }
        let picked = self.core.picker.pick(&ReadySet::new(others))?;
        indices.get(picked).copied()
    }

    fn explain(&self, ready: &ReadySet) -> String {
        let mut why = format!("{} of {} ready:", self.core.config.balancer, ready.len());
        for candidate in ready.candidates().iter().take(10) {
            let tried = if self.tried.contains(&candidate.id) { ", already failed this call" } else { "" };
            let _ = write!(why, " {} ({} in flight{tried})", candidate.id, candidate.load.in_flight());
        }
        why
    }

    /// Takes an answer's head: gives it to the caller, or, where it says
    /// UNAVAILABLE and another attempt may help, begins that one.
    fn accept(&mut self, mut head: http::Response<h2::RecvStream>) -> Option<http::Response<Answer>> {
        let status = head.headers().get(GRPC_STATUS);
        let ended = status.map(|code| Code::from_header(code.as_bytes()));
        let unavailable = says_unavailable(head.status(), status);
        if unavailable && let Some(stage) = self.decide(retry::Failure::Unavailable) {
            self.note_answer("answered UNAVAILABLE");
            if let Stage::Sent(attempt) = &self.stage {
                attempt.in_flight.0.observe(Ended::Answered(Code::UNAVAILABLE));
                self.tried.push(attempt.in_flight.0.peer.id.clone());
            }
            self.stage = stage;
            return None;
        }
        self.note_answer("answered");
        if ended.is_some() {
            drop_malformed_details(head.headers_mut());
        }
        let Stage::Sent(attempt) = std::mem::replace(&mut self.stage, Stage::Pick) else { return None };
        if let Some(code) = ended {
            attempt.in_flight.0.observe(Ended::Answered(code));
        }
        let upload = attempt.upload.map(|upload| {
            let body = std::mem::replace(&mut self.body, RequestBody::ended());
            AbortOnDropHandle::new(tokio::spawn(Rest::new(body, upload)))
        });
        let deadline = self.bounds_answer.then_some(self.deadline);
        Some(head.map(|frames| Answer::new(frames, attempt.in_flight, deadline, upload)))
    }

    /// Ends an attempt that failed without an answer and begins the next.
    fn after(&mut self, failure: Failure) -> Result<(), Failure> {
        self.note(&failure);
        if let Stage::Sent(attempt) = &self.stage {
            if matches!(failure, Failure::Broken { .. }) && failure.kind() != retry::Failure::NotProcessed {
                attempt.in_flight.0.observe(Ended::Broken);
            }
            self.tried.push(attempt.in_flight.0.peer.id.clone());
        }
        self.stage = self.retry(&failure).ok_or(failure)?;
        Ok(())
    }

    fn retry(&mut self, failure: &Failure) -> Option<Stage> {
        self.decide(failure.kind())
    }

    /// What comes after a failed attempt; `None` when nothing does.
    fn decide(&mut self, failure: retry::Failure) -> Option<Stage> {
        let policy = RetryPolicy { applies: self.method.idempotent, ..RetryPolicy::default() };
        let delay = self.tries.again(failure, &policy, None)?;
        // One that would start after the deadline helps nobody: let the
        // failure be told, it is a better cause than "too late".
        if Instant::now() + delay >= self.deadline.at || !self.body.is_replayable() {
            return None;
        }
        match failure {
            retry::Failure::NotProcessed => self.core.counters.transparent_retries.add(),
            _ => self.core.counters.retries.add(),
        }
        Some(if delay == Duration::ZERO {
            Stage::Pick
        } else {
            Stage::Wait(Box::pin(tokio::time::sleep(delay)))
        })
    }

    fn expired(&self) -> Failure {
        self.core.counters.expired.add();
        let service = &self.core.service;
        let while_ = match &self.stage {
            Stage::Sent(attempt) => {
                attempt.in_flight.0.observe(Ended::Expired);
                format!("waiting for the answer of {}", attempt.in_flight.0.peer)
            }
            _ if self.core.view.snapshot().ready.is_empty() => {
                format!("waiting for an instance of `{service}`: {}", self.core.view.snapshot().why)
            }
            _ => format!("between attempts, {} made to `{service}`", self.tries.sends()),
        };
        self.note(format_args!("deadline exceeded"));
        Failure::Expired { limit: self.deadline.limit, while_ }
    }

    fn note_answer(&self, outcome: &str) {
        if let Some(explain) = &self.explain {
            explain.answered(outcome);
        }
    }

    fn note(&self, outcome: impl std::fmt::Display) {
        if let Some(explain) = &self.explain {
            explain.end(outcome);
        }
    }
}

/// Whether the head of an answer says UNAVAILABLE, as a gRPC server does or
/// as a proxy in front of it does ("HTTP to gRPC Status Code Mapping").
fn says_unavailable(http: http::StatusCode, grpc: Option<&HeaderValue>) -> bool {
    match grpc {
        Some(code) => code == "14",
        None => matches!(http.as_u16(), 429 | 502 | 503 | 504),
    }
}
