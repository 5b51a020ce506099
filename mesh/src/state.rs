//! The state directory of `mesh up`: who owns it, what lies in it, and
//! `mesh.json`, by which every other command finds a running mesh.
//!
//! ```text
//! .consort/
//!   consort-state   says that the folder is ours; without it nothing is deleted
//!   lock            held by the running `mesh up`; its text is the process id
//!   mesh.json       the running mesh; gone when it has stopped
//!   data/           what services keep; --fresh empties it
//!   snapshots/      what the registry last told; --fresh empties it
//!   logs/           a file for each process
//!   secrets/        keys and passwords of `mesh up --auth`; only this user reads it
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

/// Where `mesh up` keeps its things unless told otherwise.
pub(crate) const DEFAULT_DIR: &str = ".consort";

const MARKER: &str = "consort-state";
const MARKER_TEXT: &str =
    "This folder belongs to `mesh up`. `mesh up --fresh` empties data/ and snapshots/.\n";

/// `mesh.json`: what a running `mesh up` says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MeshFile {
    /// The registry's URL.
    pub(crate) registry: String,
    /// The process id of `mesh up`.
    pub(crate) pid: u32,
    /// When it started, RFC 3339.
    pub(crate) started: String,
    /// The processes it looks after.
    pub(crate) instances: Vec<Process>,
}

/// One process of `mesh up`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// `cart-service-1`.
    #[serde(default)]
    pub(crate) name: String,
    pub(crate) service: String,
    /// The id it is registered under; null until it is.
    pub(crate) id: Option<String>,
    /// Host and port.
    pub(crate) address: String,
    /// Where it tells of itself; null where it does not.
    #[serde(default)]
    pub(crate) admin: Option<String>,
    /// Null while it is down.
    pub(crate) pid: Option<u32>,
    /// The health that the registry last showed; null before it is listed.
    pub(crate) health: Option<String>,
    /// When that health was first seen, RFC 3339.
    pub(crate) since: Option<String>,
    /// Where its output goes.
    pub(crate) log: PathBuf,
}

/// The files of a state directory.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    dir: PathBuf,
}

impl Files {
    /// The directory itself, made absolute so that it means the same in every
    /// process.
    ///
    /// # Errors
    /// When the current directory is gone.
    pub(crate) fn of(dir: Option<&Path>) -> Result<Self> {
        let dir = dir.unwrap_or(Path::new(DEFAULT_DIR));
        let dir = std::path::absolute(dir).with_context(|| format!("could not tell where {dir:?} is"))?;
        Ok(Self { dir })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Where the library remembers what the registry told.
    fn snapshots(&self) -> PathBuf {
        self.dir.join("snapshots")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// Where `mesh up --auth` keeps keys and passwords.
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

    /// What the `mesh up` that runs here says of itself; `None` when none
    /// runs, also where one was killed and left its file.
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
            .with_context(|| format!("{} is not what `mesh up` wrote; delete it", path.display()))?;
        // Whoever wrote it holds the lock for as long as it lives.
        let lock = File::open(self.lock());
        let alive = lock.is_ok_and(|f| matches!(f.try_lock_shared(), Err(TryLockError::WouldBlock)));
        Ok(alive.then_some(file))
    }
}

/// A state directory that this process owns until it is dropped.
#[derive(Debug)]
pub(crate) struct Owned {
    pub(crate) files: Files,
    /// Locked; the lock ends with the process, however it ends.
    _lock: File,
}

impl Owned {
    /// Takes the directory, making it when it is not there. With `fresh` the
    /// data in it is thrown away.
    ///
    /// # Errors
    /// When it is somebody else's folder, another `mesh up` runs on it, or it
    /// cannot be written.
    pub(crate) fn take(files: Files, fresh: bool) -> Result<Self> {
        adopt(&files.dir)?;
        let lock = lock(&files)?;
        if fresh {
            remove(&files.data())?;
            remove(&files.snapshots())?;
        }
        for dir in [files.data(), files.logs()] {
            private::make_folder(&dir).with_context(|| format!("could not make {}", dir.display()))?;
        }
        narrow(&files).with_context(|| format!("could not make {} private", files.dir.display()))?;
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

    /// Says that the mesh has stopped.
    pub(crate) fn clear(&self) {
        if let Err(error) = fs::remove_file(self.files.mesh())
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(%error, "could not remove mesh.json");
        }
    }
}

/// Keeps other users of this machine out of the directory, and out of the
/// databases, which services refuse to open otherwise.
fn narrow(files: &Files) -> std::io::Result<()> {
    if private::narrow_folder(&files.dir)? {
        let dir = files.dir.display();
        tracing::warn!(%dir, "other users of this machine could enter {dir} until now");
    }
    private::narrow_folder(&files.data())?;
    private::narrow_files(&files.data())
}

/// Makes the folder ours, unless it holds things that are not.
fn adopt(dir: &Path) -> Result<()> {
    let marker = dir.join(MARKER);
    if marker.is_file() {
        return Ok(());
    }
    private::make_folder(dir).with_context(|| {
        format!("could not make the state directory {}; choose another with --state-dir", dir.display())
    })?;
    if !is_free(dir).with_context(|| format!("could not read {}", dir.display()))? {
        bail!(
            "{} holds things but no file `{MARKER}`, so it is not a state directory of ours; \
             choose an empty or new one with --state-dir or CONSORT_STATE_DIR",
            dir.display()
        );
    }
    fs::write(&marker, MARKER_TEXT).with_context(|| {
        format!("could not write {}; choose another place with --state-dir", marker.display())
    })
}

/// Whether the folder is empty, or holds nothing but what `mesh serve` made
/// in it: databases in `data/`, and `snapshots/`.
fn is_free(dir: &Path) -> std::io::Result<bool> {
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

fn lock(files: &Files) -> Result<File> {
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

/// Whether the lock could be had. Another command that looks whether a mesh
/// runs holds it for a moment, so one refusal is none.
fn try_lock(file: &File) -> std::io::Result<bool> {
    const TRIES: u32 = 10;
    for _ in 0..TRIES {
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

    fn files(dir: &tempfile::TempDir) -> Files {
        Files::of(Some(&dir.path().join("state"))).unwrap()
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
        let owned = Owned::take(files.clone(), false).unwrap();
        owned.write(&file()).unwrap();
        assert_eq!(files.running().unwrap(), Some(file()));
        drop(owned);
        assert_eq!(files.running().unwrap(), None, "its lock is free");
    }

    #[test]
    fn two_on_one_directory_are_refused_with_the_first_ones_pid() {
        let dir = tempfile::tempdir().unwrap();
        let _owned = Owned::take(files(&dir), false).unwrap();
        let text = Owned::take(files(&dir), false).unwrap_err().to_string();
        assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    }

    #[test]
    fn nobody_else_enters_it_whoever_made_it() {
        use std::os::unix::fs::PermissionsExt;
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let files = files(&dir);
        drop(Owned::take(files.clone(), false).unwrap());
        let database = files.data().join("user.db");
        fs::write(&database, "x").unwrap();
        set(&database, 0o644);
        set(&files.data(), 0o755);
        set(&files.dir, 0o755);
        drop(Owned::take(files.clone(), false).unwrap());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!([mode(&files.dir), mode(&files.data()), mode(&database)], [0o700, 0o700, 0o600]);
    }

    #[test]
    fn fresh_empties_the_data_of_our_own_directory() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(&dir);
        drop(Owned::take(files.clone(), false).unwrap());
        fs::create_dir(files.snapshots()).unwrap();
        let kept = [files.data().join("cart.db"), files.snapshots().join("cart-service.json")];
        kept.iter().for_each(|file| fs::write(file, "x").unwrap());
        drop(Owned::take(files.clone(), false).unwrap());
        assert!(kept.iter().all(|file| file.exists()), "data outlives a restart");
        drop(Owned::take(files, true).unwrap());
        assert!(!kept.iter().any(|file| file.exists()));
    }

    #[test]
    fn a_folder_that_is_not_ours_is_never_touched() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        fs::write(dir.path().join("data/thesis"), "x").unwrap();
        let files = Files::of(Some(dir.path())).unwrap();
        for fresh in [false, true] {
            let text = Owned::take(files.clone(), fresh).unwrap_err().to_string();
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
        drop(Owned::take(Files::of(Some(dir.path())).unwrap(), false).unwrap());
        assert!(dir.path().join("data/cart.db").exists());
    }
}
