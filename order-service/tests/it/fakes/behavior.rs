//! The behavior of a fake's calls.

use std::sync::{Arc, Mutex};

use tonic::{Response, Status};

/// The behavior of a call.
#[derive(Clone, Default)]
pub(crate) enum Behavior {
    #[default]
    Works,
    /// Does nothing, and fails.
    Fails(Status),
    /// Does nothing, and does not respond.
    Hangs,
    /// Succeeds, and returns an error.
    LosesResponse,
    /// Succeeds, and does not respond.
    SucceedsSilently,
    /// Fails so many of a hundred calls, before or after their effect.
    Shaky(u8),
}

/// A behavior that tests can change.
#[derive(Clone, Default)]
pub(crate) struct BehaviorSwitch {
    behavior: Arc<Mutex<Behavior>>,
}

impl BehaviorSwitch {
    pub(crate) fn set(&self, behavior: Behavior) {
        *self.behavior.lock().unwrap() = behavior;
    }

    /// Runs `work` with the behavior.
    pub(crate) async fn apply<T>(
        &self,
        work: impl FnOnce() -> Result<T, Status>,
    ) -> Result<Response<T>, Status> {
        let behavior = self.behavior.lock().unwrap().clone();
        match behavior.now() {
            Behavior::Works | Behavior::Shaky(_) => work().map(Response::new),
            Behavior::Fails(status) => Err(status),
            Behavior::Hangs => std::future::pending().await,
            Behavior::LosesResponse => {
                let _ = work();
                Err(Status::unavailable("lost"))
            }
            Behavior::SucceedsSilently => {
                let _ = work();
                std::future::pending().await
            }
        }
    }
}

impl Behavior {
    fn now(self) -> Self {
        match self {
            Self::Shaky(share) if fastrand::u8(0..100) >= share => Self::Works,
            Self::Shaky(_) => {
                if fastrand::bool() {
                    Self::LosesResponse
                } else {
                    Self::Fails(Status::unavailable("unavailable"))
                }
            }
            behavior => behavior,
        }
    }
}
