//! The attempts of a call: sending them, polling them, and hedging.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    super::{
        failure::Failure,
        in_flight::{InFlight, Target},
        upload::Upload,
    },
    Attempt, CallState, Stage,
};

/// The timer of attempts that are sent while earlier ones are in flight.
pub(super) struct Hedging {
    /// Fires when the next hedge is due.
    pub(super) timer: Pin<Box<Sleep>>,
    delay: Duration,
}

/// The least time between two attempts to find an instance to hedge with.
const MIN_HEDGE_INTERVAL: Duration = Duration::from_millis(10);

impl CallState {
    /// Begins an attempt. When the connection takes no stream, another attempt
    /// or the failure follows.
    pub(super) fn begin(&mut self, target: Target) -> Result<Stage, Failure> {
        match self.send(target) {
            Ok(()) => {
                self.plan_hedge();
                Ok(Stage::Sent)
            }
            Err(failure) => self.retry(&failure).ok_or(failure),
        }
    }

    fn send(&mut self, target: Target) -> Result<(), Failure> {
        let connection = &target.connection;
        let sends = self.counts.sends();
        let (began, left) = if sends > 0 || self.waited {
            let now = Instant::now();
            let left = self.deadline.at.saturating_duration_since(now);
            (now, self.bounds_body.then(|| left.saturating_add(self.margin)))
        } else {
            (self.began, None)
        };
        let attempt_index = self.explain.as_ref().map(|explain| self.explain_begin(explain, connection));
        match connection.send(self.head.next(sends, left), false) {
            Ok((answer, stream)) => {
                self.core.counters.attempts.add();
                let in_flight = InFlight::start(target, &self.policy, &self.core.counters, began);
                let timeout = self.policy.attempt_timeout(self.deadline.timeout);
                let timeout = timeout.map(|limit| Box::new((Box::pin(sleep_until(began + limit)), limit)));
                let upload = Some(Upload::new(stream));
                self.attempts.push(Attempt { answer, upload, in_flight, attempt_index, timeout });
                Ok(())
            }
            Err(error) => {
                let failure = Failure::NotSent { to: connection.peer.clone(), cause: Arc::new(error) };
                self.explain_end(attempt_index, &failure);
                self.failed_on.push(connection.peer.id.clone());
                Err(failure)
            }
        }
    }

    /// The index and result of the attempt that ends next; `None` when one was
    /// abandoned instead and the call has moved to another stage.
    #[allow(clippy::type_complexity, reason = "an attempt and its result, used once")]
    pub(super) fn poll_attempts(
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

    /// Sends another attempt while earlier ones are in flight, to an instance
    /// that has none of them, if the budget allows it.
    ///
    /// Source: gRFC A6 (hedging).
    fn hedge(&mut self) {
        let (Some(hedging), Some(policy)) = (&mut self.hedging, &self.policy.hedging) else { return };
        let now = Instant::now();
        // Where nothing can be sent, a delay of zero must not become a busy
        // loop.
        hedging.timer.as_mut().reset(now + hedging.delay.max(MIN_HEDGE_INTERVAL));
        // Only a request whose body is complete can be sent twice at once.
        if !self.body.is_complete() {
            return;
        }
        let Some(target) = self.select_unused() else { return };
        if !self.counts.hedge(policy) {
            self.hedging = None;
        } else if !self.core.budget.withdraw(now) {
            self.core.counters.budget_refused.add();
        } else if self.send(target).is_ok() {
            self.core.counters.hedges.add();
            self.retry_counts.hedges += 1;
            if let Some(hedging) = &mut self.hedging {
                hedging.timer.as_mut().reset(now + hedging.delay);
            }
        }
    }
}
