//! One call: attempts until one of them gets a response, all within one
//! deadline.

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
mod deadline;
mod outcome;
mod select;
mod send;

use attempt::Attempt;
use deadline::CallTimeout;
use select::Selection;
use send::Hedging;

use super::{
    Core, admission::AdmittedCall, deadline::Deadline, failure::Failure, head::RequestHead,
    in_flight::Target, response_body::ResponseBody, upload::RequestBody,
};
use crate::{
    instance::InstanceId,
    policy::{
        MethodPolicy,
        incoming::Incoming,
        limit::{self, CallPermit, LimitExceeded},
        retry::AttemptCounts,
    },
    telemetry::{Explain, RetryCounts},
};

pin_project! {
    /// The future of a response. Dropping it cancels the call.
    #[must_use = "a call does nothing unless polled"]
    pub struct ResponseFuture {
        state: Result<CallState, Option<Status>>,
        #[pin]
        timer: Option<Sleep>,
    }
}

/// The state of a call, apart from its timer.
struct CallState {
    core: Arc<Core>,
    head: RequestHead,
    body: RequestBody,
    policy: Arc<MethodPolicy>,
    /// True if the caller is a handler that serves a call itself.
    is_nested: bool,
    /// True if the call failed and either used up its retries or was denied one
    /// by the budget.
    is_exhausted: bool,
    /// The start of the call, which is the start of its first attempt unless
    /// the call `waited`.
    began: Instant,
    waited: bool,
    /// The deadline; bounds everything up to the head of the response.
    deadline: Deadline,
    admitted: AdmittedCall,
    /// True if `deadline` also bounds the response's body.
    bounds_body: bool,
    /// The time that a server is given beyond what is left of the call.
    margin: Duration,
    counts: AttemptCounts,
    retry_counts: RetryCounts,
    /// The instances that have failed this call.
    failed_on: Vec<InstanceId>,
    explain: Option<Explain>,
    stage: Stage,
    /// The attempts in flight: one, unless the call is hedged.
    attempts: SmallVec<[Attempt; 1]>,
    hedging: Option<Hedging>,
}

enum Stage {
    /// Waiting in the queue of a concurrency limit.
    Queue(Pin<Box<dyn Future<Output = Result<QueuedPermit, LimitExceeded>> + Send>>),
    /// About to select an instance and send to it.
    Pick,
    /// Waiting for an instance to become ready, or for a retry delay to pass.
    Wait(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// Waiting for a response to one of the attempts.
    Sent,
}

/// The permit that a queued call got.
enum QueuedPermit {
    /// A permit of the service's limit.
    Service(CallPermit),
    /// A permit of this instance's limit.
    Instance(Target),
}

impl std::fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl ResponseFuture {
    /// A call that failed before it began.
    pub(super) fn failed(status: Status) -> Self {
        Self { state: Err(Some(status)), timer: None }
    }

    pub(super) fn new(core: Arc<Core>, request: http::Request<tonic::body::Body>) -> Self {
        let (mut parts, body) = request.into_parts();
        let policy = core.policies.get(parts.uri.path()).clone();
        let incoming = Incoming::current();
        let left = incoming.as_ref().and_then(Incoming::left);
        let CallTimeout { timeout, bounds_body, margin } =
            match CallTimeout::resolve(&mut parts.headers, &core, &policy, left) {
                Ok(timeout) => timeout,
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
        let state = CallState {
            core,
            head: RequestHead::new(uri, parts.headers),
            body: RequestBody::new(body, policy.max_request_bytes),
            policy,
            is_nested: incoming.is_some(),
            is_exhausted: false,
            began: now,
            waited: queue.is_some(),
            deadline: Deadline { at: now + timeout, timeout },
            admitted,
            bounds_body,
            margin,
            counts: AttemptCounts::default(),
            retry_counts: RetryCounts::default(),
            failed_on: Vec::new(),
            explain: parts.extensions.remove::<Explain>(),
            stage: queue.map_or(Stage::Pick, |limit| {
                Stage::Queue(Box::pin(async { limit.enter().await.map(QueuedPermit::Service) }))
            }),
            attempts: SmallVec::new(),
            hedging: None,
        };
        Self { state: Ok(state), timer: None }
    }
}

impl Future for ResponseFuture {
    type Output = Result<http::Response<ResponseBody>, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let state = match this.state {
            Ok(state) => state,
            Err(status) => {
                let polled_again = || Status::internal("the call was polled after it had completed");
                return Poll::Ready(Err(status.take().unwrap_or_else(polled_again)));
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
                let expire = state.expire();
                Err(state.status(expire))
            }
        };
        if let Some(meters) = state.core.counters.meters() {
            meters.call(&state.retry_counts);
        }
        // Ends the attempts in flight, and with them their streams.
        *this.state = Err(None);
        this.timer.set(None);
        Poll::Ready(ended)
    }
}

impl CallState {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<http::Response<ResponseBody>, Status>> {
        loop {
            let next = match &mut self.stage {
                Stage::Queue(turn) => match ready!(turn.as_mut().poll(cx)) {
                    Ok(QueuedPermit::Service(permit)) => {
                        self.admitted.hold(permit);
                        Ok(Stage::Pick)
                    }
                    Ok(QueuedPermit::Instance(target)) => self.begin(target),
                    Err(limited) => {
                        self.core.counters.limited.add();
                        Err(Failure::LimitExceeded(limited))
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
                    match self.finish_attempt(index, ended) {
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

    /// Sends to an instance, or starts to wait for one.
    fn pick(&mut self) -> Result<Stage, Failure> {
        let Some(selection) = self.select_target() else {
            // Subscribe first and select again: a change in between would be
            // missed otherwise.
            let changes = self.core.view.changes();
            return match self.select_target() {
                Some(selection) => self.follow(selection),
                None => self.wait(changes),
            };
        };
        self.follow(selection)
    }

    fn follow(&mut self, selection: Selection) -> Result<Stage, Failure> {
        match selection {
            Selection::Available(target) => self.begin(target),
            Selection::AllFull(mut connections, limits) => {
                self.waited = true;
                Ok(Stage::Queue(Box::pin(async move {
                    let (index, permit) = limit::enter_any(limits).await?;
                    let connection = connections.swap_remove(index);
                    Ok(QueuedPermit::Instance(Target { connection, permit: Some(permit) }))
                })))
            }
        }
    }

    /// Waits for the pool to change, unless the call fails fast.
    fn wait(&mut self, changes: OwnedNotified) -> Result<Stage, Failure> {
        let snapshot = self.core.view.snapshot();
        let fail_fast = self.policy.wait_for_ready.map_or(self.core.config.fail_fast, |wait| !wait);
        if fail_fast && snapshot.ready.is_empty() && !snapshot.no_instance.is_settling() {
            let why = snapshot.no_instance.clone();
            return Err(Failure::NoInstance { service: self.core.service.clone(), why });
        }
        drop(snapshot);
        self.waited = true;
        Ok(Stage::Wait(Box::pin(changes)))
    }
}
