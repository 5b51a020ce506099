//! The running probe of a check, and tasks that end with their owner.

use std::future::Future;

use tokio::sync::watch;
use tokio::task::AbortHandle;

/// A task that ends with its owner.
#[derive(Debug)]
pub(crate) struct TaskGuard(AbortHandle);

impl TaskGuard {
    pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task).abort_handle())
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The running probe of a check.
#[derive(Debug)]
pub(crate) struct Probe {
    _task: TaskGuard,
    /// The heartbeats of a TTL check: sending restarts its timer.
    heartbeat: Option<watch::Sender<String>>,
    max_output: usize,
}

impl Probe {
    pub(crate) fn new(task: TaskGuard, heartbeat: Option<watch::Sender<String>>, max_output: usize) -> Self {
        Self { _task: task, heartbeat, max_output }
    }

    /// Records a TTL check's heartbeat and returns its output, truncated to the limit; `None` for other checks.
    pub(crate) fn heartbeat(&self, mut output: String) -> Option<String> {
        let heartbeat = self.heartbeat.as_ref()?;
        let total = output.len();
        if total > self.max_output {
            output.truncate(output.floor_char_boundary(self.max_output));
            output = format!("{output} ... (captured {} of {total} bytes)", self.max_output);
        }
        heartbeat.send_replace(output.clone());
        Some(output)
    }
}
