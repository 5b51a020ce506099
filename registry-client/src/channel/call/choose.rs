//! Which instance an attempt goes to.

use std::{fmt::Write as _, sync::Arc};

use super::{
    super::{connection::Connection, in_flight::Choice, pool::Snapshot},
    State,
};
use crate::{
    balance::{Candidate, ReadySet},
    instance::InstanceId,
    policy::limit::Limit,
    telemetry::Explain,
};

/// How many instances an explanation names.
const NAMED: usize = 10;

/// What was chosen.
pub(super) enum Chosen {
    Free(Choice),
    /// Every instance is at its limit: the first that frees a place gets the
    /// call. Connections and limits in the same order.
    Full(Vec<Arc<Connection>>, Vec<Limit>),
}

/// For how many instances at their limits a call waits at once.
const MAX_AWAITED: usize = 32;

impl State {
    /// Where to send; `None` when no instance is ready.
    pub(super) fn choose(&self) -> Option<Chosen> {
        let snapshot = self.core.view.snapshot();
        let ready = &snapshot.ready;
        let index = if self.tried.is_empty() {
            if self.policy.is_repeatable()
                && let Some(connection) = snapshot.probe()
            {
                return Some(Chosen::Free(Choice { connection, permit: None }));
            }
            self.core.picker.pick(ready)?
        } else {
            let new = |candidate: &Candidate| !self.has_had(&candidate.id);
            self.pick_among(ready, new).or_else(|| self.core.picker.pick(ready))?
        };
        let connection = snapshot.connection(index)?;
        let Some(limit) = ready.candidates()[index].load.limit() else {
            return Some(Chosen::Free(Choice { connection, permit: None }));
        };
        if let Some(permit) = limit.try_enter() {
            return Some(Chosen::Free(Choice { connection, permit: Some(permit) }));
        }
        let free = self.choose_free(&snapshot, |_| true);
        Some(free.map_or_else(|| Self::all_full(&snapshot, index), Chosen::Free))
    }

    /// The instances to wait for, the one at `first` foremost.
    fn all_full(snapshot: &Snapshot, first: usize) -> Chosen {
        let n = snapshot.ready.len();
        let in_turn = (0..n.min(MAX_AWAITED)).map(|step| (first + step) % n);
        let full = in_turn.filter_map(|index| {
            let limit = snapshot.ready.candidates()[index].load.limit()?.clone();
            Some((snapshot.connection(index)?, limit))
        });
        let (connections, limits) = full.unzip();
        Chosen::Full(connections, limits)
    }

    /// Where to hedge; `None` when every instance that is ready has failed this
    /// call, is answering it or bears no more.
    pub(super) fn choose_unused(&self) -> Option<Choice> {
        self.choose_free(&self.core.view.snapshot(), |candidate| !self.has_had(&candidate.id))
    }

    /// Whether an instance is ready that this call was not sent to.
    pub(super) fn has_unused(&self) -> bool {
        let snapshot = self.core.view.snapshot();
        snapshot.ready.candidates().iter().any(|candidate| !self.has_had(&candidate.id))
    }

    /// One of those `wanted` that is not at its limit.
    fn choose_free(&self, snapshot: &Snapshot, wanted: impl Fn(&Candidate) -> bool) -> Option<Choice> {
        let free = |c: &Candidate| wanted(c) && c.load.limit().is_none_or(|limit| !limit.is_full());
        let index = self.pick_among(&snapshot.ready, free)?;
        let permit = match snapshot.ready.candidates()[index].load.limit() {
            Some(limit) => Some(limit.try_enter()?),
            None => None,
        };
        Some(Choice { connection: snapshot.connection(index)?, permit })
    }

    /// As the picker says among those `wanted`.
    fn pick_among(&self, ready: &ReadySet, wanted: impl Fn(&Candidate) -> bool) -> Option<usize> {
        let (indices, others): (Vec<_>, Vec<_>) = ready
            .candidates()
            .iter()
            .enumerate()
            .filter(|(_, candidate)| wanted(candidate))
            .map(|(index, candidate)| (index, candidate.clone()))
            .unzip();
        let picked = self.core.picker.pick(&ReadySet::new(others))?;
        indices.get(picked).copied()
    }

    /// Whether the call was sent there already.
    fn has_had(&self, id: &InstanceId) -> bool {
        self.tried.contains(id) || self.attempts.iter().any(|attempt| attempt.in_flight.peer().id == *id)
    }

    /// Tells the caller of an attempt; gives its place in the list.
    pub(super) fn note_begin(&self, explain: &Explain, to: &Connection) -> usize {
        explain.begin(to.peer.id.clone(), to.peer.address.clone(), self.why())
    }

    /// From whom the picker chose, and who was not among them.
    fn why(&self) -> String {
        let snapshot = self.core.view.snapshot();
        let mut why = format!("{} of {} ready:", self.core.config.balancer, snapshot.ready.len());
        for candidate in snapshot.ready.candidates().iter().take(NAMED) {
            let had = match candidate {
                c if self.tried.contains(&c.id) => ", already failed this call",
                c if self.has_had(&c.id) => ", already answering this call",
                _ => "",
            };
            let busy = candidate.load.in_flight();
            let _ = write!(why, " {} ({busy} in flight, weight {}{had})", candidate.id, candidate.weight);
        }
        let out = snapshot.known.iter().map(|known| known.state()).filter(|state| !state.ready);
        for (n, state) in out.take(NAMED).enumerate() {
            let lead = if n == 0 { "; out:" } else { "," };
            let _ = write!(why, "{lead} {} ({}: {})", state.id, state.decided_by.unwrap_or("-"), state.why);
        }
        why
    }
}
