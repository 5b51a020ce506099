//! What becomes of a call.

use std::sync::{Arc, Mutex};

use tonic::{Response, Status};

/// What becomes of a call.
#[derive(Clone, Default)]
pub(crate) enum Mood {
    #[default]
    Works,
    /// Does nothing.
    Fails(Status),
    /// Does nothing and does not answer.
    Hangs,
    /// Does what is asked and says that it failed.
    Loses,
    /// Does what is asked and does not answer.
    Swallows,
    /// So many of a hundred calls are as one of the other moods, any of them.
    Shaky(u8),
}

/// A mood that can be changed.
#[derive(Clone, Default)]
pub(crate) struct Temper {
    mood: Arc<Mutex<Mood>>,
}

impl Temper {
    pub(crate) fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// Does `work` as the mood is.
    pub(crate) async fn play<T>(
        &self,
        work: impl FnOnce() -> Result<T, Status>,
    ) -> Result<Response<T>, Status> {
        let mood = self.mood.lock().unwrap().clone();
        match mood.now() {
            Mood::Works | Mood::Shaky(_) => work().map(Response::new),
            Mood::Fails(status) => Err(status),
            Mood::Hangs => std::future::pending().await,
            Mood::Loses => {
                let _ = work();
                Err(Status::unavailable("lost"))
            }
            Mood::Swallows => {
                let _ = work();
                std::future::pending().await
            }
        }
    }
}

impl Mood {
    fn now(self) -> Self {
        match self {
            Self::Shaky(share) if fastrand::u8(0..100) >= share => Self::Works,
            Self::Shaky(_) => {
                if fastrand::bool() {
                    Self::Loses
                } else {
                    Self::Fails(Status::unavailable("away"))
                }
            }
            mood => mood,
        }
    }
}
