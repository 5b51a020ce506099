//! The last good set of each service on disk, so that a process can start
//! while its registry is down.

mod file;

#[cfg(feature = "fuzzing")]
pub use file::fuzz_file;
mod recall;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{sleep_until, timeout},
};

use self::{
    file::{Folder, Key, Snapshot},
    recall::Recall,
    writer::Writer,
};
use crate::{
    instance::ServiceName,
    resolve::{RegistryCounters, Resolution, Resolver},
};

/// How long a registry that answers may take before the snapshot is told.
const HEAD_START: Duration = Duration::from_secs(1);
/// How long the snapshot may take to read before it is done without.
const READ: Duration = Duration::from_secs(2);

/// A resolver that remembers on disk what another one told: the registry's
/// last good set is there when a process starts and the registry is not.
///
/// **Reading.** Until the registry's first response the set of the file is
/// told, with its date in [`Resolution::remembered`]; the registry has a head
/// start of one second. When that first response is empty or has less than half
/// of the file's instances (a registry that lost its memory while this process
/// restarted), both are told together for ten seconds, or for as long as an
/// error stands beside the response; then the registry is believed, and the
/// channel keeps those instances that answer, as it does for any set that
/// collapsed.
///
/// **Writing.** A set is saved half a second after it changed and every five
/// minutes, never while look-ups fail. One that is empty or has less than half
/// of the saved instances replaces a good one only when the registry has said
/// so for ten minutes without an error.
///
/// **Files.** One per service, datacenter and filter, in the folder
/// `snapshots` below the given one; replaced atomically, readable by their
/// owner only, at most 4 MiB. Several processes may share the folder. A file
/// that cannot be read, is not what was written or is older than seven days is
/// a warning and not used; a folder that cannot be written is one warning.
#[derive(Clone)]
pub struct Remembered {
    inner: Arc<dyn Resolver>,
    store: Arc<Store>,
}

/// The folder, and whether it works.
#[derive(Debug)]
struct Store {
    dir: PathBuf,
    folder: Folder,
    failing: AtomicBool,
}

impl Remembered {
    /// Remembers what `inner` tells in `state_dir`. Nothing is read or written
    /// until something is resolved; the folder is made when it is first
    /// needed.
    pub fn new(inner: impl Resolver, state_dir: &Path) -> Self {
        let dir = state_dir.join("snapshots");
        let folder = Folder::new(dir.clone());
        let store = Store { dir, folder, failing: AtomicBool::new(false) };
        Self { inner: Arc::new(inner), store: Arc::new(store) }
    }

    /// Remembers in the same folder what another resolver tells.
    pub(crate) fn with_inner(&self, inner: impl Resolver) -> Self {
        Self { inner: Arc::new(inner), store: self.store.clone() }
    }
}

impl Resolver for Remembered {
    fn resolve(&self, service: &ServiceName) -> watch::Receiver<Resolution> {
        let source = self.inner.resolve(service);
        let key = Arc::new(Key::new(service, self.inner.scope()));
        let (view, receiver) = watch::channel(Resolution::default());
        let (store, service) = (self.store.clone(), service.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = view.closed() => {}
                () = follow(store, service, key, source, &view) => {}
            }
        });
        receiver
    }

    fn scope(&self) -> String {
        self.inner.scope()
    }

    fn counters(&self, service: &ServiceName) -> Option<Arc<RegistryCounters>> {
        self.inner.counters(service)
    }
}

impl std::fmt::Debug for Remembered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remembered").field("dir", &self.store.dir).finish_non_exhaustive()
    }
}

/// Tells what `source` says and what is remembered, for ever.
async fn follow(
    store: Arc<Store>,
    service: ServiceName,
    key: Arc<Key>,
    mut source: watch::Receiver<Resolution>,
    view: &watch::Sender<Resolution>,
) {
    let mut recall = Recall::new(service.clone(), load(&store, &service, &key).await);
    let mut writer = Writer::new(store, key);
    let said_something = |now: &Resolution| now.instances.is_some() || now.error.is_some();
    let _ = timeout(HEAD_START, source.wait_for(said_something)).await;
    source.mark_changed();
    let mut resolving = true;
    loop {
        tokio::select! {
            changed = source.changed(), if resolving => {
                // A resolver that ended said its last word; that holds.
                resolving = changed.is_ok();
                let now = source.borrow_and_update().clone();
                writer.look(&now);
                tell(view, recall.show(&now));
            }
            () = until(recall.due()) => tell(view, recall.show(&source.borrow())),
            () = until(writer.due()) => writer.begin(&source.borrow()),
            () = writer.ended() => {}
        }
    }
}

/// Publishes what changed.
fn tell(view: &watch::Sender<Resolution>, shown: Resolution) {
    view.send_if_modified(|now| {
        let changed = *now != shown;
        *now = shown;
        changed
    });
}

/// What is on disk, if it can be used.
async fn load(store: &Arc<Store>, service: &ServiceName, key: &Arc<Key>) -> Option<Snapshot> {
    let (store, key) = (store.clone(), key.clone());
    let path = store.folder.path(&key);
    let why = match timeout(READ, tokio::task::spawn_blocking(move || store.folder.load(&key))).await {
        Ok(Ok(Ok(snapshot))) => return snapshot,
        Ok(Ok(Err(unusable))) => unusable.to_string(),
        Ok(Err(lost)) => lost.to_string(),
        Err(_) => format!("it was not read within {READ:?}"),
    };
    let path = path.display();
    tracing::warn!(%service, %path, error = why, "the snapshot {path} of `{service}` is not used: {why}");
    None
}

/// Completes at `at`; never when there is none.
async fn until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
