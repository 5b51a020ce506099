//! The selection of an instance for an attempt.

use std::{fmt::Write as _, sync::Arc};

use super::{
    super::{
        connection::Connection,
        in_flight::Target,
        pool::{InstanceSnapshot, Snapshot},
    },
    CallState,
};
use crate::{
    balance::{Candidate, ReadySet},
    instance::InstanceId,
    policy::limit::CallLimit,
    telemetry::Explain,
};

/// The most instances that an explanation names.
const MAX_NAMED: usize = 10;

/// The result of a selection.
pub(super) enum Selection {
    Available(Target),
    /// Every instance is at its concurrency limit: the first to release a
    /// permit gets the call. Connections and limits are in the same order.
    AllFull(Vec<Arc<Connection>>, Vec<CallLimit>),
}

/// The most instances that a call waits for at once.
const MAX_AWAITED: usize = 32;

impl CallState {
    /// The instance to send to; `None` when none is ready.
    pub(super) fn select_target(&self) -> Option<Selection> {
        let snapshot = self.core.view.snapshot();
        let ready = &snapshot.ready;
        let index = if self.failed_on.is_empty() {
            if self.policy.is_repeatable()
                && let Some(connection) = snapshot.probe()
            {
                return Some(Selection::Available(Target { connection, permit: None }));
            }
            self.core.picker.pick(ready)?
        } else {
            let new = |candidate: &Candidate| !self.was_sent_to(&candidate.id);
            self.pick_among(ready, new).or_else(|| self.core.picker.pick(ready))?
        };
        let connection = snapshot.connection(index)?;
        let Some(limit) = ready.candidates()[index].load.limit() else {
            return Some(Selection::Available(Target { connection, permit: None }));
        };
        if let Some(permit) = limit.try_enter() {
            return Some(Selection::Available(Target { connection, permit: Some(permit) }));
        }
        let free = self.select_free(&snapshot, |_| true);
        Some(free.map_or_else(|| Self::select_full(&snapshot, index), Selection::Available))
    }

    /// The instances to wait for, beginning with the one at `first`.
    fn select_full(snapshot: &Snapshot, first: usize) -> Selection {
        let n = snapshot.ready.len();
        let in_turn = (0..n.min(MAX_AWAITED)).map(|step| (first + step) % n);
        let full = in_turn.filter_map(|index| {
            let limit = snapshot.ready.candidates()[index].load.limit()?.clone();
            Some((snapshot.connection(index)?, limit))
        });
        let (connections, limits) = full.unzip();
        Selection::AllFull(connections, limits)
    }

    /// The instance to hedge with; `None` when every ready instance has failed
    /// this call, has an attempt in flight or is at its limit.
    pub(super) fn select_unused(&self) -> Option<Target> {
        self.select_free(&self.core.view.snapshot(), |candidate| !self.was_sent_to(&candidate.id))
    }

    /// Returns whether a ready instance exists that this call was not sent to.
    pub(super) fn has_unused(&self) -> bool {
        let snapshot = self.core.view.snapshot();
        snapshot.ready.candidates().iter().any(|candidate| !self.was_sent_to(&candidate.id))
    }

    /// One of the candidates that `accepts` accepts and that is below its
    /// limit.
    fn select_free(&self, snapshot: &Snapshot, accepts: impl Fn(&Candidate) -> bool) -> Option<Target> {
        let free = |c: &Candidate| accepts(c) && c.load.limit().is_none_or(|limit| !limit.is_full());
        let index = self.pick_among(&snapshot.ready, free)?;
        let permit = match snapshot.ready.candidates()[index].load.limit() {
            Some(limit) => Some(limit.try_enter()?),
            None => None,
        };
        Some(Target { connection: snapshot.connection(index)?, permit })
    }

    /// As the picker says among those `accepts`.
    fn pick_among(&self, ready: &ReadySet, accepts: impl Fn(&Candidate) -> bool) -> Option<usize> {
        let (indices, others): (Vec<_>, Vec<_>) = ready
            .candidates()
            .iter()
            .enumerate()
            .filter(|(_, candidate)| accepts(candidate))
            .map(|(index, candidate)| (index, candidate.clone()))
            .unzip();
        let picked = self.core.picker.pick(&ReadySet::new(others))?;
        indices.get(picked).copied()
    }

    /// Returns whether the call was sent to this instance already.
    fn was_sent_to(&self, id: &InstanceId) -> bool {
        self.failed_on.contains(id) || self.attempts.iter().any(|attempt| attempt.in_flight.peer().id == *id)
    }

    /// Records an attempt in the caller's [`Explain`] and returns its index.
    pub(super) fn explain_begin(&self, explain: &Explain, to: &Connection) -> usize {
        explain.begin(to.peer.id.clone(), to.peer.address.clone(), self.describe_pick())
    }

    /// The candidates of the picker, and the instances that were not among
    /// them.
    fn describe_pick(&self) -> String {
        let snapshot = self.core.view.snapshot();
        let mut describe_pick = format!("{} of {} ready:", self.core.config.balancer, snapshot.ready.len());
        for candidate in snapshot.ready.candidates().iter().take(MAX_NAMED) {
            let had = match candidate {
                c if self.failed_on.contains(&c.id) => ", already failed this call",
                c if self.was_sent_to(&c.id) => ", already answering this call",
                _ => "",
            };
            let busy = candidate.load.in_flight();
            let _ = write!(
                describe_pick,
                " {} ({busy} in flight, weight {}{had})",
                candidate.id, candidate.weight
            );
        }
        let out = snapshot.instances.iter().map(InstanceSnapshot::state).filter(|state| !state.ready);
        for (n, state) in out.take(MAX_NAMED).enumerate() {
            let lead = if n == 0 { "; out:" } else { "," };
            let _ = write!(
                describe_pick,
                "{lead} {} ({}: {})",
                state.id,
                state.decided_by.unwrap_or("-"),
                state.why
            );
        }
        describe_pick
    }
}
