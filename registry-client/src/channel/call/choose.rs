//! Which instance an attempt goes to.

use std::{fmt::Write as _, sync::Arc};

use super::{super::connection::Connection, State};
use crate::{balance::ReadySet, instance::InstanceId, telemetry::Explain};

/// How many instances an explanation names.
const NAMED: usize = 10;

impl State {
    /// The connection to send on; `None` when no instance is ready.
    pub(super) fn choose(&self) -> Option<Arc<Connection>> {
        let snapshot = self.core.view.snapshot();
        let index = if self.tried.is_empty() {
            if let Some(connection) = snapshot.probe() {
                return Some(connection);
            }
            self.core.picker.pick(&snapshot.ready)?
        } else {
            self.choose_among(&snapshot.ready).or_else(|| self.core.picker.pick(&snapshot.ready))?
        };
        snapshot.connection(index)
    }

    /// The connection to hedge on; `None` when every instance that is ready has
    /// failed this call or is answering it.
    pub(super) fn choose_unused(&self) -> Option<Arc<Connection>> {
        let snapshot = self.core.view.snapshot();
        snapshot.connection(self.choose_among(&snapshot.ready)?)
    }

    /// As the picker says among those that this call was not sent to.
    fn choose_among(&self, ready: &ReadySet) -> Option<usize> {
        let (indices, others): (Vec<_>, Vec<_>) = ready
            .candidates()
            .iter()
            .enumerate()
            .filter(|(_, candidate)| !self.has_had(&candidate.id))
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
