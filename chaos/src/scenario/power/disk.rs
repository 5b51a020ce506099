//! A disk that can lose its power: what was written to it, and what of that is
//! there afterwards.

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
    /// Which file a name stands for.
    names: HashMap<PathBuf, usize>,
    /// The same after a loss of power.
    durable: HashMap<PathBuf, usize>,
    /// What syncs that are under way will make durable, by thread.
    syncing: HashMap<u32, (Synced, usize)>,
    /// A sync of a log that was only for a commit, with `lax`.
    held: Option<(usize, usize)>,
    /// Syncs of a write-ahead log count only when the database file is written
    /// next: those are all that SQLite makes with `synchronous=NORMAL`.
    lax: bool,
    /// Raised whenever anything becomes durable.
    pub(super) age: u64,
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
    /// How many changes that holds.
    synced: usize,
    /// All later ones, in the order in which they were made.
    changes: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Cut(usize),
}

/// What a loss of power does to what was written and not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// All of it is gone.
    Everything,
    /// Any part of it is gone, and any other is not.
    Some,
    /// It is all there: the power was not lost.
    Nothing,
}

impl Disk {
    /// An empty folder. `lax` leaves out what `synchronous=NORMAL` would.
    pub(super) fn new(folder: &Path, lax: bool) -> Self {
        Self { folder: folder.to_owned(), lax, ..Self::default() }
    }

    /// Does what the event says, where it is about a file of this folder.
    pub(super) fn does(&mut self, event: Event) {
        match event {
            Event::Opened(path) if self.has(&path) && !self.names.contains_key(&path) => {
                let is_log = path.to_string_lossy().ends_with("-wal");
                self.names.insert(path, self.files.len());
                self.files.push(File { is_log, ..File::default() });
            }
            Event::Removed(path) => drop(self.names.remove(&path)),
            Event::Wrote { path, at, bytes } => self.change(&path, Change::Write { at, bytes }),
            Event::Cut { path, length } => self.change(&path, Change::Cut(length)),
            Event::SyncBegun { thread, path } => self.begin_sync(thread, &path),
            Event::Synced { thread, .. } => self.end_sync(thread),
            Event::Opened(_) | Event::Said { .. } => {}
        }
    }

    fn has(&self, path: &Path) -> bool {
        path.parent() == Some(&self.folder)
    }

    fn change(&mut self, path: &Path, change: Change) {
        let Some(index) = self.names.get(path).copied() else { return };
        if !self.files[index].is_log
            && let Some((log, until)) = self.held.take()
        {
            self.sync(log, until);
        }
        self.files[index].changes.push(change);
    }

    fn begin_sync(&mut self, thread: u32, path: &Path) {
        if path == self.folder {
            self.syncing.insert(thread, (Synced::Folder, 0));
        } else if let Some(index) = self.names.get(path) {
            let File { synced, changes, .. } = &self.files[*index];
            self.syncing.insert(thread, (Synced::File(*index), synced + changes.len()));
        }
    }

    fn end_sync(&mut self, thread: u32) {
        match self.syncing.remove(&thread) {
            None => {}
            Some((Synced::Folder, _)) => {
                self.durable.clone_from(&self.names);
                self.age += 1;
            }
            Some((Synced::File(log), until)) if self.lax && self.files[log].is_log => {
                self.held = Some((log, until));
            }
            Some((Synced::File(index), until)) => self.sync(index, until),
        }
    }

    /// Makes a file's changes durable up to that one.
    fn sync(&mut self, index: usize, until: usize) {
        let File { durable, synced, changes, .. } = &mut self.files[index];
        // Another thread's sync may have been done since.
        let covered = until.saturating_sub(*synced);
        changes.drain(..covered).for_each(|change| change.apply(durable));
        *synced += covered;
        self.age += 1;
    }

    /// Writes the files to `folder`, as they are after that loss.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(super) fn restore(&self, loss: Loss, folder: &Path) -> io::Result<()> {
        let names = if loss == Loss::Nothing { &self.names } else { &self.durable };
        for (path, index) in names {
            let Some(name) = path.file_name() else { continue };
            fs::write(folder.join(name), self.files[*index].after(loss))?;
        }
        Ok(())
    }

    /// Whether the real files are as this disk has them, which is so when no
    /// event was missed.
    pub(super) fn is_real(&self) -> bool {
        self.names
            .iter()
            // Written by mapping it, and made anew after a loss of power.
            .filter(|(path, _)| !path.to_string_lossy().ends_with("-shm"))
            .all(|(path, index)| {
                fs::read(path).is_ok_and(|real| real == self.files[*index].after(Loss::Nothing))
            })
    }
}

impl File {
    fn after(&self, loss: Loss) -> Vec<u8> {
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
            Self::Cut(length) => file.resize(*length, 0),
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
        disk.does(Event::Opened(path("a")));
        disk.does(wrote(b"one"));
        synced(&path("a")).into_iter().for_each(|event| disk.does(event));
        assert_eq!(left(&disk, Loss::Everything), None, "a name that was not synced");
        synced(Path::new("/data")).into_iter().for_each(|event| disk.does(event));
        let [begun, done] = synced(&path("a"));
        disk.does(begun);
        disk.does(wrote(b"two"));
        disk.does(done);
        assert_eq!(left(&disk, Loss::Everything).unwrap(), b"one");
        assert_eq!(left(&disk, Loss::Nothing).unwrap(), b"two");
        synced(&path("a")).into_iter().for_each(|event| disk.does(event));
        disk.does(Event::Removed(path("a")));
        assert_eq!(left(&disk, Loss::Everything).unwrap(), b"two");
        assert_eq!(left(&disk, Loss::Nothing), None);
    }

    #[test]
    fn a_lax_disk_has_a_log_once_the_database_is_written() {
        let mut disk = Disk::new(Path::new("/data"), true);
        let log = path("a-wal");
        let write = |path: &Path| Event::Wrote { path: path.to_owned(), at: 0, bytes: b"one".to_vec() };
        disk.does(Event::Opened(path("a")));
        disk.does(Event::Opened(log.clone()));
        disk.does(write(&log));
        synced(&log).into_iter().for_each(|event| disk.does(event));
        let of_log = |disk: &Disk| disk.files[1].after(Loss::Everything);
        assert_eq!(of_log(&disk), b"");
        disk.does(write(&path("a")));
        assert_eq!(of_log(&disk), b"one");
    }
}
