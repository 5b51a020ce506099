//! Snapshots of each service's last good set on disk, so that a process can
//! start while its registry is down.

mod file;

#[cfg(feature = "fuzzing")]
pub use file::fuzz_file;
mod fallback;
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
    fallback::Fallback,
    file::{Key, Snapshot, SnapshotDir},
    writer::Writer,
};
use crate::{
    instance::ServiceName,
    resolve::{RegistryCounters, Resolution, Resolver},
};

/// The time for the registry's first response before the snapshot is used.
const SNAPSHOT_DELAY: Duration = Duration::from_secs(1);
/// The timeout of reading the snapshot.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// A resolver that saves the sets of another one on disk: a process that starts
/// while the registry is down uses the last good set.
///
/// **Reading.** Until the registry's first response the set of the file is
/// used, with its date in [`Resolution::snapshot_saved_at`]; the registry has
/// one second before that. When the first response is empty or has less than
/// half of the file's instances (a registry that lost its data while this
/// process restarted), the union of both is used for ten seconds, or for as
/// long as the response comes with an error; after that the registry's set
/// holds, and the channel keeps connected instances, as for any set that
/// collapsed.
///
/// **Writing.** A set is saved half a second after it changed and every five
/// minutes, never while look-ups fail. A set that is empty or has less than
/// half of the saved instances replaces a good one only after ten minutes
/// without an error.
///
/// **Files.** One per service, datacenter and filter, in the folder `snapshots`
/// below the given one; replaced atomically, readable by their owner only, at
/// most 4 MiB. Several processes may share the folder. A file that cannot be
/// read, is malformed or is older than seven days is not used and logged as a
/// warning; a folder that cannot be written is logged once.
#[derive(Clone)]
pub struct SnapshotResolver {
    inner: Arc<dyn Resolver>,
    store: Arc<Store>,
}

/// The folder of snapshots, and whether writing fails.
#[derive(Debug)]
struct Store {
    dir: PathBuf,
    folder: SnapshotDir,
    is_failing: AtomicBool,
}

impl SnapshotResolver {
    /// Saves the sets of `inner` in `state_dir`. Nothing is read or written
    /// until a service is resolved; the folder is created when it is first
    /// needed.
    pub fn new(inner: impl Resolver, state_dir: &Path) -> Self {
        let dir = state_dir.join("snapshots");
        let folder = SnapshotDir::new(dir.clone());
        let store = Store { dir, folder, is_failing: AtomicBool::new(false) };
        Self { inner: Arc::new(inner), store: Arc::new(store) }
    }

    /// Saves the sets of another resolver in the same folder.
    pub(crate) fn with_inner(&self, inner: impl Resolver) -> Self {
        Self { inner: Arc::new(inner), store: self.store.clone() }
    }
}

impl Resolver for SnapshotResolver {
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

impl std::fmt::Debug for SnapshotResolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remembered").field("dir", &self.store.dir).finish_non_exhaustive()
    }
}

/// Publishes the sets of `source` and of the snapshot; never completes.
async fn follow(
    store: Arc<Store>,
    service: ServiceName,
    key: Arc<Key>,
    mut source: watch::Receiver<Resolution>,
    view: &watch::Sender<Resolution>,
) {
    let mut fallback = Fallback::new(service.clone(), load(&store, &service, &key).await);
    let mut writer = Writer::new(store, key);
    let said_something = |now: &Resolution| now.instances.is_some() || now.error.is_some();
    let _ = timeout(SNAPSHOT_DELAY, source.wait_for(said_something)).await;
    source.mark_changed();
    let mut resolving = true;
    loop {
        tokio::select! {
            changed = source.changed(), if resolving => {
                // The resolver ended; its last set holds.
                resolving = changed.is_ok();
                let now = source.borrow_and_update().clone();
                writer.update(&now);
                publish(view, fallback.resolution(&now));
            }
            () = until(fallback.next_timer()) => publish(view, fallback.resolution(&source.borrow())),
            () = until(writer.next_timer()) => writer.start(&source.borrow()),
            () = writer.finished() => {}
        }
    }
}

/// Publishes a resolution if it changed.
fn publish(view: &watch::Sender<Resolution>, shown: Resolution) {
    view.send_if_modified(|now| {
        let changed = *now != shown;
        *now = shown;
        changed
    });
}

/// The snapshot on disk, if it can be used.
async fn load(store: &Arc<Store>, service: &ServiceName, key: &Arc<Key>) -> Option<Snapshot> {
    let (store, key) = (store.clone(), key.clone());
    let path = store.folder.path(&key);
    let why = match timeout(READ_TIMEOUT, tokio::task::spawn_blocking(move || store.folder.load(&key))).await
    {
        Ok(Ok(Ok(snapshot))) => return snapshot,
        Ok(Ok(Err(unusable))) => unusable.to_string(),
        Ok(Err(lost)) => lost.to_string(),
        Err(_) => format!("it could not be read within {READ_TIMEOUT:?}"),
    };
    let path = path.display();
    tracing::warn!(%service, %path, error = why, "the snapshot {path} of `{service}` is not used: {why}");
    None
}

/// Completes at `at`; never without one.
async fn until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
