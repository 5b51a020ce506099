//! The state directory of `mesh up`: its owner, its files, and `mesh.json`, by
//! which every other command finds a running mesh.
//!
//! ```text
//! .consort/ consort-state marks the folder as a state directory; without it nothing
//! is deleted lock held by the running `mesh up`; its text is the process id
//! mesh.json the running mesh; gone when it has stopped data/ what services keep;
//! --fresh empties it snapshots/ instances the registry last listed; --fresh empties
//! it logs/ a file for each process secrets/ keys and passwords of `mesh up --auth`;
//! only this user reads it
//! ```

use std::{
    fs::{self, File, TryLockError},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use service_kit::private;

/// The default state directory.
pub(crate) const DEFAULT_DIR: &str = ".consort";

const MARKER: &str = "consort-state";
const MARKER_TEXT: &str =
    "This folder belongs to `mesh up`. `mesh up --fresh` empties data/ and snapshots/.\n";

/// `mesh.json`: the state of a running `mesh up`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MeshFile {
    /// The registry's URL.
    pub(crate) registry: String,
    /// The process id of `mesh up`.
    pub(crate) pid: u32,
    /// The start time, RFC 3339.
    pub(crate) started: String,
    /// The processes that it supervises.
    pub(crate) instances: Vec<Process>,
}

/// One process of `mesh up`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// `cart-service-1`.
    #[serde(default)]
    pub(crate) name: String,
    pub(crate) service: String,
    /// The id under which the instance is registered; null until it is.
    pub(crate) id: Option<String>,
    /// Host and port.
    pub(crate) address: String,
    /// The admin address; null if there is none.
    #[serde(default)]
    pub(crate) admin: Option<String>,
    /// The process id; null while it is down.
    pub(crate) pid: Option<u32>,
    /// The health that the registry last showed; null before it is listed.
    pub(crate) health: Option<String>,
    /// The time when that health was first seen, RFC 3339.
    pub(crate) since: Option<String>,
    /// The file that its output goes to.
    pub(crate) log: PathBuf,
}

/// The files of a state directory.
#[derive(Clone, Debug)]
pub(crate) struct StatePaths {
    dir: PathBuf,
}

impl StatePaths {
    /// The paths in `dir`, made absolute so that they mean the same in every
    /// process.
    ///
    /// # Errors
    /// When the current directory is gone.
    pub(crate) fn of(dir: Option<&Path>) -> Result<Self> {
        let dir = dir.unwrap_or(Path::new(DEFAULT_DIR));
        let dir = std::path::absolute(dir).with_context(|| format!("could not resolve the path {dir:?}"))?;
        Ok(Self { dir })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The folder of the library's registry snapshots.
    fn snapshots(&self) -> PathBuf {
        self.dir.join("snapshots")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// The folder of the keys and passwords of `mesh up --auth`.
    pub(crate) fn secrets(&self) -> PathBuf {
        self.dir.join("secrets")
    }

    /// The log of the process called `name`.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    fn mesh(&self) -> PathBuf {
        self.dir.join("mesh.json")
    }

    fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }

    /// The `mesh.json` of the `mesh up` that runs here; `None` when none runs,
    /// also if a killed one left its file.
    ///
    /// # Errors
    /// When the file is there but cannot be read.
    pub(crate) fn running(&self) -> Result<Option<MeshFile>> {
        let path = self.mesh();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("could not read {}", path.display())),
        };
        let file = serde_json::from_slice(&text)
            .with_context(|| format!("{} is not a file of `mesh up`; delete it", path.display()))?;
        // The process that wrote it holds the lock for as long as it lives.
        let lock = File::open(self.lock());
        let is_alive = lock.is_ok_and(|f| matches!(f.try_lock_shared(), Err(TryLockError::WouldBlock)));
        Ok(is_alive.then_some(file))
    }
}

/// A state directory that this process owns until it is dropped.
#[derive(Debug)]
pub(crate) struct StateDir {
    pub(crate) files: StatePaths,
    /// Locked; the lock ends with the process, however it ends.
    _lock: File,
}

impl StateDir {
    /// Takes ownership of the directory, and creates it if it does not exist.
    /// With `fresh` the data in it is deleted.
    ///
    /// # Errors
    /// When the folder is not a state directory, another `mesh up` runs on it,
    /// or it cannot be written.
    pub(crate) fn acquire(files: StatePaths, fresh: bool) -> Result<Self> {
        claim(&files.dir)?;
        let lock = lock(&files)?;
        if fresh {
            remove(&files.data())?;
            remove(&files.snapshots())?;
        }
        for dir in [files.data(), files.logs()] {
            private::make_folder(&dir).with_context(|| format!("could not make {}", dir.display()))?;
        }
        restrict_access(&files).with_context(|| format!("could not make {} private", files.dir.display()))?;
        Ok(Self { files, _lock: lock })
    }

    /// Replaces `mesh.json` as a whole: a reader sees the old or the new one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(&self, file: &MeshFile) -> Result<()> {
        let path = self.files.mesh();
        let new = self.files.dir.join("mesh.json.new");
        let mut text = serde_json::to_vec_pretty(file)?;
        text.push(b'\n');
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .with_context(|| format!("could not write {}", path.display()))
    }

    /// Removes `mesh.json`: the mesh has stopped.
    pub(crate) fn clear(&self) {
        if let Err(error) = fs::remove_file(self.files.mesh())
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(%error, "could not remove mesh.json");
        }
    }
}

/// Denies other users of this machine access to the directory and to the
/// databases, which services refuse to open otherwise.
fn restrict_access(files: &StatePaths) -> std::io::Result<()> {
    if private::narrow_folder(&files.dir)? {
        let dir = files.dir.display();
        tracing::warn!(%dir, "other users of this machine could enter {dir} until now");
    }
    private::narrow_folder(&files.data())?;
    private::narrow_files(&files.data())
}

/// Marks the folder as a state directory, unless it holds other files.
fn claim(dir: &Path) -> Result<()> {
    let marker = dir.join(MARKER);
    if marker.is_file() {
        return Ok(());
    }
    private::make_folder(dir).with_context(|| {
        format!("could not make the state directory {}; choose another with --state-dir", dir.display())
    })?;
    if !can_be_claimed(dir).with_context(|| format!("could not read {}", dir.display()))? {
        bail!(
            "{} is not empty and has no file `{MARKER}`, so it is not a state directory; \
             choose an empty or new one with --state-dir or CONSORT_STATE_DIR",
            dir.display()
        );
    }
    fs::write(&marker, MARKER_TEXT).with_context(|| {
        format!("could not write {}; choose another place with --state-dir", marker.display())
    })
}

/// Returns whether the folder is empty, or holds only files of `mesh serve`:
/// databases in `data/`, and `snapshots/`.
fn can_be_claimed(dir: &Path) -> std::io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let endings: &[&str] = match entry.file_name().to_str() {
            Some("data") => &[".db", ".db-wal", ".db-shm"],
            Some("snapshots") => &[".json"],
            _ => return Ok(false),
        };
        if !entry.file_type()?.is_dir() {
            return Ok(false);
        }
        for file in fs::read_dir(entry.path())? {
            let name = file?.file_name();
            let name = name.to_string_lossy();
            if !endings.iter().any(|ending| name.ends_with(ending)) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn lock(files: &StatePaths) -> Result<File> {
    let path = files.lock();
    let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = open.with_context(|| format!("could not open {}", path.display()))?;
    if !try_lock(&file).with_context(|| format!("could not lock {}", path.display()))? {
        let pid = fs::read_to_string(&path).unwrap_or_default();
        bail!(
            "a mesh already runs on {} (process {}); stop it, or choose another --state-dir and --port-base",
            files.dir.display(),
            pid.trim()
        );
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .with_context(|| format!("could not write {}", path.display()))?;
    Ok(file)
}

/// Tries to take the lock. Another command that checks for a running mesh holds
/// it for a moment, so it is tried several times.
fn try_lock(file: &File) -> std::io::Result<bool> {
    const MAX_LOCK_ATTEMPTS: u32 = 10;
    for _ in 0..MAX_LOCK_ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(false)
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(e).with_context(|| format!("could not remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &tempfile::TempDir) -> StatePaths {
        StatePaths::of(Some(&dir.path().join("state"))).unwrap()
    }

    fn file() -> MeshFile {
        MeshFile {
            registry: "http://127.0.0.1:8500".into(),
            pid: std::process::id(),
            started: "2026-01-01T00:00:00Z".into(),
            instances: vec![],
        }
    }

    #[test]
    fn a_mesh_is_found_while_it_runs_and_not_when_it_died() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(&dir);
        assert!(files.running().unwrap().is_none());
        let state_dir = StateDir::acquire(files.clone(), false).unwrap();
        state_dir.write(&file()).unwrap();
        assert_eq!(files.running().unwrap(), Some(file()));
        drop(state_dir);
        assert_eq!(files.running().unwrap(), None, "its lock is free");
    }

    #[test]
    fn two_on_one_directory_are_refused_with_the_first_ones_pid() {
        let dir = tempfile::tempdir().unwrap();
        let _owned = StateDir::acquire(files(&dir), false).unwrap();
        let text = StateDir::acquire(files(&dir), false).unwrap_err().to_string();
        assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    }

    #[test]
    fn other_users_have_no_access_whatever_the_modes_were() {
        use std::os::unix::fs::PermissionsExt;
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let files = files(&dir);
        drop(StateDir::acquire(files.clone(), false).unwrap());
        let database = files.data().join("user.db");
        fs::write(&database, "x").unwrap();
        set(&database, 0o644);
        set(&files.data(), 0o755);
        set(&files.dir, 0o755);
        drop(StateDir::acquire(files.clone(), false).unwrap());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!([mode(&files.dir), mode(&files.data()), mode(&database)], [0o700, 0o700, 0o600]);
    }

    #[test]
    fn fresh_empties_the_data_of_our_own_directory() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(&dir);
        drop(StateDir::acquire(files.clone(), false).unwrap());
        fs::create_dir(files.snapshots()).unwrap();
        let kept = [files.data().join("cart.db"), files.snapshots().join("cart-service.json")];
        kept.iter().for_each(|file| fs::write(file, "x").unwrap());
        drop(StateDir::acquire(files.clone(), false).unwrap());
        assert!(kept.iter().all(|file| file.exists()), "data outlives a restart");
        drop(StateDir::acquire(files, true).unwrap());
        assert!(!kept.iter().any(|file| file.exists()));
    }

    #[test]
    fn a_folder_that_is_not_ours_is_never_touched() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        fs::write(dir.path().join("data/thesis"), "x").unwrap();
        let files = StatePaths::of(Some(dir.path())).unwrap();
        for fresh in [false, true] {
            let text = StateDir::acquire(files.clone(), fresh).unwrap_err().to_string();
            assert!(text.contains("--state-dir"), "{text}");
        }
        assert!(dir.path().join("data/thesis").exists());
    }

    #[test]
    fn a_folder_in_which_a_service_was_served_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        for (folder, file) in [("data", "cart.db"), ("snapshots", "order-service.json")] {
            fs::create_dir(dir.path().join(folder)).unwrap();
            fs::write(dir.path().join(folder).join(file), "x").unwrap();
        }
        drop(StateDir::acquire(StatePaths::of(Some(dir.path())).unwrap(), false).unwrap());
        assert!(dir.path().join("data/cart.db").exists());
    }
}
