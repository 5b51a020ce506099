//! The file format of snapshots: one file per service, with its last good set
//! and its date.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::instance::{Instance, InstanceHealth, InstanceId, Locality, ParseError, ServiceName};

/// The version of the format, which each file begins with.
const FORMAT: u64 = 1;
/// The largest file that is written or read, in bytes.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// The age from which a snapshot is not used: other programs may have its
/// addresses by then.
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// The prefix of a temporary file.
const TEMP_PREFIX: &str = ".new-";
/// The age from which a temporary file counts as left by a killed process.
const MAX_TEMP_AGE: Duration = Duration::from_secs(3600);

/// The key of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// The service in lower case: registries are case-insensitive.
    service: String,
    /// The scope of the resolver; empty by default.
    scope: String,
}

impl Key {
    pub(super) fn new(service: &ServiceName, scope: String) -> Self {
        Self { service: service.as_str().to_ascii_lowercase(), scope }
    }

    /// The name of the file. A service's name has no special character of paths
    /// and no `@`. Scopes with the same hash are distinguished by the content
    /// of the file.
    fn file_name(&self) -> String {
        match self.scope.as_str() {
            "" => format!("{}.json", self.service),
            scope => format!("{}@{:016x}.json", self.service, fnv1a(scope.as_bytes())),
        }
    }
}

/// The hash of Fowler, Noll and Vo, which is stable across versions, unlike the
/// standard library's.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A set and the time at which the registry last confirmed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) saved: SystemTime,
    pub(super) instances: Arc<[Instance]>,
}

impl Snapshot {
    pub(super) fn age(&self) -> Duration {
        self.saved.elapsed().unwrap_or_default()
    }

    /// Returns whether `new` is so much smaller that a registry that lost its
    /// data is more likely than a service that shrank: empty, or less than
    /// half.
    pub(super) fn collapses_to(&self, new: &[Instance]) -> bool {
        new.len() * 2 < self.instances.len()
    }
}

/// The reason for which a file is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SnapshotError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is no regular file")]
    NotAFile,
    #[error("it is longer than {MAX_FILE_BYTES} bytes")]
    TooLong,
    #[error("it is malformed ({0})")]
    Malformed(String),
    #[error("its format is {0} and not {FORMAT}")]
    Format(u64),
    #[error("it holds the set of another service, datacenter or filter")]
    WrongKey,
    #[error("it is {} days old", .0.as_secs() / (24 * 3600))]
    TooOld(Duration),
}

/// The result of saving a set.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SaveOutcome {
    Written,
    /// The file has the same set and is fresh.
    Unchanged,
    /// The set is much smaller, which is not confirmed yet.
    Deferred,
    /// The file would be too large to be read.
    TooLarge,
}

/// The folder of all snapshots. Several processes may share it: a file is
/// replaced as a whole, and each writer reads it first.
#[derive(Debug)]
pub(super) struct SnapshotDir {
    dir: PathBuf,
    is_swept: AtomicBool,
}

impl SnapshotDir {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, is_swept: AtomicBool::new(false) }
    }

    pub(super) fn path(&self, key: &Key) -> PathBuf {
        self.dir.join(key.file_name())
    }

    /// The snapshot of `key`; `None` when it was never saved.
    pub(super) fn load(&self, key: &Key) -> Result<Option<Snapshot>, SnapshotError> {
        let bytes = match read(&self.path(key)) {
            Err(SnapshotError::Io(e)) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let snapshot = Stored::parse(&bytes)?.snapshot(key)?;
        match snapshot.age() {
            age if age > MAX_AGE => Err(SnapshotError::TooOld(age)),
            _ => Ok(Some(snapshot)),
        }
    }

    /// Saves `instances`, unless the file has the same set and is younger than
    /// `fresh`, or they are much fewer than in the file and not confirmed. An
    /// unconfirmed empty set is never written.
    pub(super) fn save(
        &self,
        key: &Key,
        instances: &[Instance],
        fresh: Duration,
        is_confirmed: bool,
    ) -> io::Result<SaveOutcome> {
        // A file that cannot be used is replaced.
        if let Ok(Some(there)) = self.load(key) {
            if *there.instances == *instances && there.age() < fresh {
                return Ok(SaveOutcome::Unchanged);
            }
            if !is_confirmed && there.collapses_to(instances) {
                return Ok(SaveOutcome::Deferred);
            }
        }
        if !is_confirmed && instances.is_empty() {
            return Ok(SaveOutcome::Deferred);
        }
        let bytes = serde_json::to_vec(&Stored::of(key, instances))?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Ok(SaveOutcome::TooLarge);
        }
        self.replace(&self.path(key), &bytes)?;
        Ok(SaveOutcome::Written)
    }

    /// Replaces a file atomically: readers see the old one or the new one, also
    /// after a power loss.
    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        create_dir(&self.dir)?;
        if !self.is_swept.swap(true, Relaxed) {
            self.remove_temp_files()?;
        }
        // Readable by its owner only.
        let mut file = tempfile::Builder::new().prefix(TEMP_PREFIX).tempfile_in(&self.dir)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        // The new name is durable with the folder; where a folder cannot be
        // synchronised, the old file may come back.
        let _ = File::open(&self.dir).and_then(|dir| dir.sync_all());
        Ok(())
    }

    /// Removes the temporary files of killed processes.
    fn remove_temp_files(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let abandoned = entry.metadata().and_then(|about| about.modified());
            let abandoned = abandoned.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > MAX_TEMP_AGE));
            if abandoned && entry.file_name().to_string_lossy().starts_with(TEMP_PREFIX) {
                // Another process may have removed it.
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }
}

/// Creates the folder, for its owner only.
fn create_dir(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

fn read(path: &Path) -> Result<Vec<u8>, SnapshotError> {
    // Opening a pipe would wait for its writer.
    let about = fs::metadata(path)?;
    if !about.is_file() {
        return Err(SnapshotError::NotAFile);
    }
    if about.len() > MAX_FILE_BYTES {
        return Err(SnapshotError::TooLong);
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The part that every format begins with.
#[derive(Deserialize)]
struct FormatHeader {
    format: u64,
}

/// The content of a file.
#[derive(Serialize, Deserialize)]
struct Stored {
    format: u64,
    service: String,
    scope: String,
    saved_unix_s: u64,
    instances: Vec<StoredInstance>,
}

#[derive(Serialize, Deserialize)]
struct StoredInstance {
    id: String,
    address: String,
    weight: u16,
    health: StoredHealth,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    meta: BTreeMap<String, String>,
    /// Missing in files of earlier versions, as in those of instances without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    locality: Option<StoredLocality>,
}

#[derive(Serialize, Deserialize)]
struct StoredLocality {
    region: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    zone: String,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StoredHealth {
    Passing,
    Warning,
    Critical,
    Maintenance,
}

impl Stored {
    fn of(key: &Key, instances: &[Instance]) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            format: FORMAT,
            service: key.service.clone(),
            scope: key.scope.clone(),
            saved_unix_s: now.as_secs(),
            instances: instances.iter().map(StoredInstance::of).collect(),
        }
    }

    fn parse(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let garbage = |e: serde_json::Error| SnapshotError::Malformed(e.to_string());
        let FormatHeader { format } = serde_json::from_slice(bytes).map_err(garbage)?;
        if format != FORMAT {
            return Err(SnapshotError::Format(format));
        }
        serde_json::from_slice(bytes).map_err(garbage)
    }

    fn snapshot(self, key: &Key) -> Result<Snapshot, SnapshotError> {
        if (&self.service, &self.scope) != (&key.service, &key.scope) {
            return Err(SnapshotError::WrongKey);
        }
        let saved = UNIX_EPOCH.checked_add(Duration::from_secs(self.saved_unix_s));
        let saved = saved.ok_or_else(|| SnapshotError::Malformed("its date is none".to_owned()))?;
        let instances = self.instances.into_iter().map(StoredInstance::instance);
        let instances = instances.collect::<Result<Vec<_>, _>>().map_err(SnapshotError::Malformed)?;
        Ok(Snapshot { saved: saved.min(SystemTime::now()), instances: instances.into() })
    }
}

impl StoredInstance {
    fn of(instance: &Instance) -> Self {
        Self {
            id: instance.id.as_str().to_owned(),
            address: instance.address.to_string(),
            weight: instance.weight,
            health: match instance.health {
                InstanceHealth::Passing => StoredHealth::Passing,
                InstanceHealth::Warning => StoredHealth::Warning,
                InstanceHealth::Critical => StoredHealth::Critical,
                InstanceHealth::Maintenance => StoredHealth::Maintenance,
            },
            reason: instance.reason.clone(),
            tags: instance.tags.clone(),
            meta: instance.meta.clone(),
            locality: instance.locality.as_ref().map(|at| StoredLocality {
                region: at.region().to_owned(),
                zone: at.zone().unwrap_or_default().to_owned(),
            }),
        }
    }

    fn instance(self) -> Result<Instance, String> {
        if self.weight == 0 {
            return Err(format!("the weight of `{}` is 0", self.id));
        }
        let unusable = |why: ParseError| why.to_string();
        let locality = self.locality.map(|at| Locality::new(&at.region, &at.zone)).transpose();
        Ok(Instance {
            id: InstanceId::new(&self.id),
            address: self.address.parse().map_err(unusable)?,
            weight: self.weight,
            health: match self.health {
                StoredHealth::Passing => InstanceHealth::Passing,
                StoredHealth::Warning => InstanceHealth::Warning,
                StoredHealth::Critical => InstanceHealth::Critical,
                StoredHealth::Maintenance => InstanceHealth::Maintenance,
            },
            reason: self.reason,
            tags: self.tags,
            meta: self.meta,
            locality: locality.map_err(unusable)?,
        })
    }
}

/// Fuzzes the file format: a file that was read is written and read again
/// unchanged.
#[cfg(feature = "fuzzing")]
pub fn fuzz_file(data: &[u8]) {
    let key = Key { service: "web".to_owned(), scope: String::new() };
    let read = |bytes: &[u8]| Stored::parse(bytes).and_then(|stored| stored.snapshot(&key));
    match read(data) {
        Ok(snapshot) => {
            let written = serde_json::to_vec(&Stored::of(&key, &snapshot.instances));
            let again = written.ok().and_then(|bytes| read(&bytes).ok());
            assert_eq!(again.map(|again| again.instances), Some(snapshot.instances));
        }
        Err(why) => assert!(why.to_string().len() <= crate::fuzzing::MAX_MESSAGE_LEN, "{why}"),
    }
}

#[cfg(test)]
mod tests;
