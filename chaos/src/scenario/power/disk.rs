//! A model of a disk: the writes to it, and the data that a loss of power
//! leaves.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::trace::Event;

/// The files in one folder. A write is durable from its file's next sync on, a
/// name from its folder's.
#[derive(Debug, Default)]
pub(super) struct Disk {
    folder: PathBuf,
    files: Vec<File>,
    /// The file of each name.
    names: HashMap<PathBuf, usize>,
    /// The file of each name after a loss of power.
    durable: HashMap<PathBuf, usize>,
    /// The data that running syncs will make durable, by thread.
    running_syncs: HashMap<u32, (Synced, usize)>,
    /// The last sync of a write-ahead log, with `skips_commit_syncs`.
    pending_log_sync: Option<(usize, usize)>,
    /// Syncs of a write-ahead log count only when the database file is written
    /// next: those are all that SQLite makes with `synchronous=NORMAL`.
    skips_commit_syncs: bool,
    /// Raised whenever anything becomes durable.
    pub(super) version: u64,
}

#[derive(Clone, Copy, Debug)]
enum Synced {
    Folder,
    File(usize),
}

#[derive(Debug, Default)]
struct File {
    is_log: bool,
    durable: Vec<u8>,
    /// The number of changes in `durable`.
    synced: usize,
    /// All later ones, in the order in which they were made.
    changes: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Truncate(usize),
}

/// The effect of a loss of power on unsynced writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// All are lost.
    Everything,
    /// A random part is lost.
    Some,
    /// None are lost: the power did not fail.
    Nothing,
}

impl Disk {
    /// An empty folder. `skips_commit_syncs` leaves out what `synchronous=NORMAL` would.
    pub(super) fn new(folder: &Path, skips_commit_syncs: bool) -> Self {
        Self { folder: folder.to_owned(), skips_commit_syncs, ..Self::default() }
    }

    /// Applies an event, if it concerns a file of this folder.
    pub(super) fn apply_event(&mut self, event: Event) {
        match event {
            Event::Opened(path) if self.contains(&path) && !self.names.contains_key(&path) => {
                let is_log = path.to_string_lossy().ends_with("-wal");
                self.names.insert(path, self.files.len());
                self.files.push(File { is_log, ..File::default() });
            }
            Event::Removed(path) => drop(self.names.remove(&path)),
            Event::Wrote { path, at, bytes } => self.change(&path, Change::Write { at, bytes }),
            Event::Truncated { path, length } => self.change(&path, Change::Truncate(length)),
            Event::SyncBegun { thread, path } => self.begin_sync(thread, &path),
            Event::Synced { thread, .. } => self.end_sync(thread),
            Event::Opened(_) | Event::Sent { .. } => {}
        }
    }

    fn contains(&self, path: &Path) -> bool {
        path.parent() == Some(&self.folder)
    }

    fn change(&mut self, path: &Path, change: Change) {
        let Some(index) = self.names.get(path).copied() else { return };
        if !self.files[index].is_log
            && let Some((log, until)) = self.pending_log_sync.take()
        {
            self.sync(log, until);
        }
        self.files[index].changes.push(change);
    }

    fn begin_sync(&mut self, thread: u32, path: &Path) {
        if path == self.folder {
            self.running_syncs.insert(thread, (Synced::Folder, 0));
        } else if let Some(index) = self.names.get(path) {
            let File { synced, changes, .. } = &self.files[*index];
            self.running_syncs.insert(thread, (Synced::File(*index), synced + changes.len()));
        }
    }

    fn end_sync(&mut self, thread: u32) {
        match self.running_syncs.remove(&thread) {
            None => {}
            Some((Synced::Folder, _)) => {
                self.durable.clone_from(&self.names);
                self.version += 1;
            }
            Some((Synced::File(log), until)) if self.skips_commit_syncs && self.files[log].is_log => {
                self.pending_log_sync = Some((log, until));
            }
            Some((Synced::File(index), until)) => self.sync(index, until),
        }
    }

    /// Makes a file's changes durable up to `until`.
    fn sync(&mut self, index: usize, until: usize) {
        let File { durable, synced, changes, .. } = &mut self.files[index];
        // Another thread's sync may have been done since.
        let covered = until.saturating_sub(*synced);
        changes.drain(..covered).for_each(|change| change.apply(durable));
        *synced += covered;
        self.version += 1;
    }

    /// Writes the files to `folder` as they are after that loss.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(super) fn restore(&self, loss: Loss, folder: &Path) -> io::Result<()> {
        let names = if loss == Loss::Nothing { &self.names } else { &self.durable };
        for (path, index) in names {
            let Some(name) = path.file_name() else { continue };
            fs::write(folder.join(name), self.files[*index].content_after(loss))?;
        }
        Ok(())
    }

    /// Returns whether the real files equal those of this model, so that no
    /// event was missed.
    pub(super) fn matches_real_files(&self) -> bool {
        self.names
            .iter()
            // The shared memory file is mapped, and created again after a loss
            // of power.
            .filter(|(path, _)| !path.to_string_lossy().ends_with("-shm"))
            .all(|(path, index)| {
                fs::read(path).is_ok_and(|real| real == self.files[*index].content_after(Loss::Nothing))
            })
    }
}

impl File {
    fn content_after(&self, loss: Loss) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        let survives = |_: &&Change| match loss {
            Loss::Everything => false,
            Loss::Some => fastrand::bool(),
            Loss::Nothing => true,
        };
        self.changes.iter().filter(survives).for_each(|change| change.apply(&mut bytes));
        bytes
    }
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Self::Write { at, bytes } => {
                let end = at + bytes.len();
                if file.len() < end {
                    file.resize(end, 0);
                }
                file[*at..end].copy_from_slice(bytes);
            }
            Self::Truncate(length) => file.resize(*length, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        Path::new("/data").join(name)
    }

    fn wrote(bytes: &[u8]) -> Event {
        Event::Wrote { path: path("a"), at: 0, bytes: bytes.to_vec() }
    }

    fn synced(path: &Path) -> [Event; 2] {
        let path = path.to_owned();
        [Event::SyncBegun { thread: 1, path: path.clone() }, Event::Synced { thread: 1, path }]
    }

    fn left(disk: &Disk, loss: Loss) -> Option<Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        disk.restore(loss, folder.path()).unwrap();
        fs::read(folder.path().join("a")).ok()
    }

    #[test]
    fn only_what_was_synced_is_left() {
        let mut disk = Disk::new(Path::new("/data"), false);
        disk.apply_event(Event::Opened(path("a")));
        disk.apply_event(wrote(b"one"));
        synced(&path("a")).into_iter().for_each(|event| disk.apply_event(event));
        assert_eq!(left(&disk, Loss::Everything), None, "a name that was not synced");
        synced(Path::new("/data")).into_iter().for_each(|event| disk.apply_event(event));
        let [begun, done] = synced(&path("a"));
        disk.apply_event(begun);
        disk.apply_event(wrote(b"two"));
        disk.apply_event(done);
        assert_eq!(left(&disk, Loss::Everything).unwrap(), b"one");
        assert_eq!(left(&disk, Loss::Nothing).unwrap(), b"two");
        synced(&path("a")).into_iter().for_each(|event| disk.apply_event(event));
        disk.apply_event(Event::Removed(path("a")));
        assert_eq!(left(&disk, Loss::Everything).unwrap(), b"two");
        assert_eq!(left(&disk, Loss::Nothing), None);
    }

    #[test]
    fn a_lax_disk_has_a_log_once_the_database_is_written() {
        let mut disk = Disk::new(Path::new("/data"), true);
        let log = path("a-wal");
        let write = |path: &Path| Event::Wrote { path: path.to_owned(), at: 0, bytes: b"one".to_vec() };
        disk.apply_event(Event::Opened(path("a")));
        disk.apply_event(Event::Opened(log.clone()));
        disk.apply_event(write(&log));
        synced(&log).into_iter().for_each(|event| disk.apply_event(event));
        let of_log = |disk: &Disk| disk.files[1].content_after(Loss::Everything);
        assert_eq!(of_log(&disk), b"");
        disk.apply_event(write(&path("a")));
        assert_eq!(of_log(&disk), b"one");
    }
}
