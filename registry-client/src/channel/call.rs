//! One call: attempts until there is an answer, all within one deadline.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use smallvec::SmallVec;
use tokio::{
    sync::futures::OwnedNotified,
    time::{Instant, Sleep, sleep_until},
};
use tonic::Status;

mod attempt;
mod choose;
mod deadline;
mod outcome;

use attempt::Attempt;
use choose::Chosen;
use deadline::Limit;

use super::{
    Core,
    admission::Admitted,
    answer::{Answer, Deadline},
    failure::Failure,
    head::Head,
    in_flight::{Choice, InFlight},
    upload::{RequestBody, Upload},
};
use crate::{
    instance::InstanceId,
    policy::{
        MethodPolicy,
        incoming::Incoming,
        limit::{self, Limited, Permit},
        retry::Tries,
    },
    telemetry::{Explain, Retried},
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
    policy: Arc<MethodPolicy>,
    /// Whether the caller is a handler, which answers a call in turn.
    is_nested: bool,
    /// Whether the call failed although it was retried, or would have been had
    /// the budget allowed it.
    is_exhausted: bool,
    /// When the call began, which is when its first attempt does unless it
    /// `waited`.
    began: Instant,
    waited: bool,
    /// When the call ends: bounds everything up to the head of the answer.
    deadline: Deadline,
    admitted: Admitted,
    /// Whether `deadline` also bounds the answer's body.
    bounds_answer: bool,
    /// How much more time than what is left a server is given.
    margin: Duration,
    tries: Tries,
    retried: Retried,
    /// Who failed this call already.
    tried: Vec<InstanceId>,
    explain: Option<Explain>,
    stage: Stage,
    /// The attempts under way: one, unless the call is hedged.
    attempts: SmallVec<[Attempt; 1]>,
    hedging: Option<Hedging>,
}

enum Stage {
    /// For the call's turn at a limit.
    Queue(Pin<Box<dyn Future<Output = Result<Turn, Limited>> + Send>>),
    /// Choose an instance and send.
    Pick,
    /// For an instance to become ready, or for a delay to pass.
    Wait(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// For an answer to one of the attempts.
    Sent,
}

/// What a call has come to the head of a queue for.
enum Turn {
    /// To be sent at all.
    Service(Permit),
    /// To be sent to this instance.
    Instance(Choice),
}

/// Attempts that are sent while earlier ones are still under way.
struct Hedging {
    /// Until the next one.
    timer: Pin<Box<Sleep>>,
    delay: Duration,
}

/// The least time between two looks for an instance to hedge with.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

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
        let policy = core.policies.get(parts.uri.path()).clone();
        let incoming = Incoming::current();
        let left = incoming.as_ref().and_then(Incoming::left);
        let Limit { limit, bounds_answer, margin } =
            match Limit::set(&mut parts.headers, &core, &policy, left) {
                Ok(limit) => limit,
                Err(failure) => return Self::failed(failure.into()),
            };
        let uri = match core.uri(parts.uri) {
            Ok(uri) => uri,
            Err(failure) => return Self::failed(failure.into()),
        };
        let now = Instant::now();
        core.counters.calls.add();
        let (admitted, queue) = match core.admission.admit(&core.service, now, (&core.counters, &core.budget))
        {
            Ok(admitted) => admitted,
            Err(failure) => return Self::failed(failure.into()),
        };
        let state = State {
            core,
            head: Head::new(uri, parts.headers),
            body: RequestBody::new(body, policy.max_request_bytes),
            policy,
            is_nested: incoming.is_some(),
            is_exhausted: false,
            began: now,
            waited: queue.is_some(),
            deadline: Deadline { at: now + limit, limit },
            admitted,
            bounds_answer,
            margin,
            tries: Tries::default(),
            retried: Retried::default(),
            tried: Vec::new(),
            explain: parts.extensions.remove::<Explain>(),
            stage: queue.map_or(Stage::Pick, |limit| {
                Stage::Queue(Box::pin(async { limit.enter().await.map(Turn::Service) }))
            }),
            attempts: SmallVec::new(),
            hedging: None,
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
        let ended = match state.poll(cx) {
            Poll::Ready(ended) => ended,
            Poll::Pending => {
                if this.timer.is_none() {
                    this.timer.set(Some(sleep_until(state.deadline.at)));
                }
                if let Some(timer) = this.timer.as_mut().as_pin_mut() {
                    ready!(timer.poll(cx));
                }
                let expired = state.expired();
                Err(state.status(expired))
            }
        };
        if let Some(meters) = state.core.counters.meters() {
            meters.call(&state.retried);
        }
        // Ends the attempts that are under way, and with them their streams.
        *this.state = Err(None);
        this.timer.set(None);
        Poll::Ready(ended)
    }
}

impl State {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<http::Response<Answer>, Status>> {
        loop {
            let next = match &mut self.stage {
                Stage::Queue(turn) => match ready!(turn.as_mut().poll(cx)) {
                    Ok(Turn::Service(permit)) => {
                        self.admitted.hold(permit);
                        Ok(Stage::Pick)
                    }
                    Ok(Turn::Instance(choice)) => self.begin(choice),
                    Err(limited) => {
                        self.core.counters.limited.add();
                        Err(Failure::Limited(limited))
                    }
                },
                Stage::Pick => self.pick(),
                Stage::Wait(wait) => {
                    ready!(wait.as_mut().poll(cx));
                    Ok(Stage::Pick)
                }
                Stage::Sent => {
                    // The stage has changed when no attempt ended.
                    let Some((index, ended)) = ready!(self.poll_attempts(cx)) else { continue };
                    match self.take(index, ended) {
                        Poll::Ready(ended) => return Poll::Ready(ended),
                        Poll::Pending => continue,
                    }
                }
            };
            match next {
                Ok(stage) => self.stage = stage,
                Err(failure) => return Poll::Ready(Err(self.status(failure))),
            }
        }
    }

    /// Sends to an instance, or begins to wait for one.
    fn pick(&mut self) -> Result<Stage, Failure> {
        let Some(chosen) = self.choose() else {
            // Listen first and look again then, or a change in between would
            // be missed.
            let changes = self.core.view.changes();
            return match self.choose() {
                Some(chosen) => self.follow(chosen),
                None => self.wait(changes),
            };
        };
        self.follow(chosen)
    }

    fn follow(&mut self, chosen: Chosen) -> Result<Stage, Failure> {
        match chosen {
            Chosen::Free(choice) => self.begin(choice),
            Chosen::Full(mut connections, limits) => {
                self.waited = true;
                Ok(Stage::Queue(Box::pin(async move {
                    let (index, permit) = limit::enter_any(limits).await?;
                    let connection = connections.swap_remove(index);
                    Ok(Turn::Instance(Choice { connection, permit: Some(permit) }))
                })))
            }
        }
    }

    /// Waits for the pool to change, unless the call is to fail fast.
    fn wait(&mut self, changes: OwnedNotified) -> Result<Stage, Failure> {
        let snapshot = self.core.view.snapshot();
        let fail_fast = self.policy.wait_for_ready.map_or(self.core.config.fail_fast, |wait| !wait);
        if fail_fast && snapshot.ready.is_empty() && !snapshot.why.is_settling() {
            let why = snapshot.why.clone();
            return Err(Failure::NoInstance { service: self.core.service.clone(), why });
        }
        drop(snapshot);
        self.waited = true;
        Ok(Stage::Wait(Box::pin(changes)))
    }

    /// Begins an attempt; what follows when the connection takes none.
    fn begin(&mut self, choice: Choice) -> Result<Stage, Failure> {
        match self.send(choice) {
            Ok(()) => {
                self.plan_hedge();
                Ok(Stage::Sent)
            }
            Err(failure) => self.retry(&failure).ok_or(failure),
        }
    }

    fn send(&mut self, choice: Choice) -> Result<(), Failure> {
        let connection = &choice.connection;
        let sends = self.tries.sends();
        let (began, left) = if sends > 0 || self.waited {
            let now = Instant::now();
            let left = self.deadline.at.saturating_duration_since(now);
            (now, self.bounds_answer.then(|| left.saturating_add(self.margin)))
        } else {
            (self.began, None)
        };
        let attempt_index = self.explain.as_ref().map(|explain| self.note_begin(explain, connection));
        match connection.send(self.head.next(sends, left), false) {
            Ok((answer, stream)) => {
                self.core.counters.attempts.add();
                let in_flight = InFlight::on(choice, &self.policy, &self.core.counters, began);
                let timeout = self.policy.attempt_timeout(self.deadline.limit);
                let timeout = timeout.map(|limit| Box::new((Box::pin(sleep_until(began + limit)), limit)));
                let upload = Some(Upload::new(stream));
                self.attempts.push(Attempt { answer, upload, in_flight, attempt_index, timeout });
                Ok(())
            }
            Err(error) => {
                let failure = Failure::NotSent { to: connection.peer.clone(), cause: Arc::new(error) };
                self.note(attempt_index, &failure);
                self.tried.push(connection.peer.id.clone());
                Err(failure)
            }
        }
    }

    /// The index of the attempt that ends next, with how it did; `None` when
    /// one was abandoned instead and the call is at another stage.
    #[allow(clippy::type_complexity, reason = "an attempt and its result, used once")]
    fn poll_attempts(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<(usize, Result<http::Response<h2::RecvStream>, Failure>)>> {
        loop {
            let mut index = 0;
            while index < self.attempts.len() {
                if let Poll::Ready(ended) = self.attempts[index].poll(&mut self.body, &self.deadline, cx) {
                    return Poll::Ready(Some((index, ended)));
                }
                if let Poll::Ready(limit) = self.attempts[index].poll_timeout(cx)
                    && let Some(stage) = self.abandon(index, limit)
                {
                    self.stage = stage;
                    return Poll::Ready(None);
                }
                index += 1;
            }
            let Some(hedging) = &mut self.hedging else { return Poll::Pending };
            ready!(hedging.timer.as_mut().poll(cx));
            self.hedge();
        }
    }

    /// Sets the timer of the next hedge, if the method has any.
    fn plan_hedge(&mut self) {
        if self.hedging.is_none()
            && let Some(delay) = self.policy.hedge_delay()
        {
            self.hedging = Some(Hedging { timer: Box::pin(sleep_until(Instant::now() + delay)), delay });
        }
    }

    /// Sends once more while earlier attempts are under way, to an instance
    /// that has none of them, if the budget allows it.
    ///
    /// Source: gRFC A6 (hedging).
    fn hedge(&mut self) {
        let (Some(hedging), Some(policy)) = (&mut self.hedging, &self.policy.hedging) else { return };
        let now = Instant::now();
        // Where nothing can be sent, a delay of nothing must not become a spin.
        hedging.timer.as_mut().reset(now + hedging.delay.max(LOOK_AGAIN));
        // Only a request that is there as a whole can be sent twice at once.
        if !self.body.is_complete() {
            return;
        }
        let Some(choice) = self.choose_unused() else { return };
        if !self.tries.hedge(policy) {
            self.hedging = None;
        } else if !self.core.budget.withdraw(now) {
            self.core.counters.budget_refused.add();
        } else if self.send(choice).is_ok() {
            self.core.counters.hedges.add();
            self.retried.hedges += 1;
            if let Some(hedging) = &mut self.hedging {
                hedging.timer.as_mut().reset(now + hedging.delay);
            }
        }
    }
}
