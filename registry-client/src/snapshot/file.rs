//! One file per service: its last good set, its date, and nothing that a
//! reader could not do without.

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

use crate::instance::{Health, Instance, InstanceId, Locality, ParseError, ServiceName};

/// What a file begins with; another number is another format.
const FORMAT: u64 = 1;
/// The largest file that is written or read, in bytes.
const MOST_BYTES: u64 = 4 * 1024 * 1024;
/// An older set is not used: by then others may have its addresses.
const MOST_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// How a file that is being written is called before it has its name.
const UNFINISHED: &str = ".new-";
/// An unfinished file of this age was left by a process that was killed.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Which set a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// In lower case, as registries look names up.
    service: String,
    /// What else was asked for; empty for the plain set.
    scope: String,
}

impl Key {
    pub(super) fn new(service: &ServiceName, scope: String) -> Self {
        Self { service: service.as_str().to_ascii_lowercase(), scope }
    }

    /// A service's name has no character that means something in a path, and
    /// no `@`. Two scopes with one hash are told apart by what the file says.
    fn file_name(&self) -> String {
        match self.scope.as_str() {
            "" => format!("{}.json", self.service),
            scope => format!("{}@{:016x}.json", self.service, fnv1a(scope.as_bytes())),
        }
    }
}

/// The hash of Fowler, Noll and Vo: unlike the standard library's the same in
/// every version.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A set and when the registry last said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) saved: SystemTime,
    pub(super) instances: Arc<[Instance]>,
}

impl Snapshot {
    pub(super) fn age(&self) -> Duration {
        self.saved.elapsed().unwrap_or_default()
    }

    /// Returns whether `new` is so much smaller that a registry which lost its
    /// memory is likelier than a service that shrank: empty, or less than half.
    pub(super) fn collapses_to(&self, new: &[Instance]) -> bool {
        new.len() * 2 < self.instances.len()
    }
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is no plain file")]
    NoFile,
    #[error("it is longer than the {MOST_BYTES} bytes that are read")]
    TooLong,
    #[error("it is not what was written ({0})")]
    Garbage(String),
    #[error("its format is {0} and not {FORMAT}")]
    Format(u64),
    #[error("it holds the set of another service, datacenter or filter")]
    Foreign,
    #[error("it is {} days old", .0.as_secs() / (24 * 3600))]
    Old(Duration),
}

/// What became of a set that was to be saved.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Saved {
    Written,
    /// The file already says so, and is fresh.
    Same,
    /// It is not believed yet that the set became so small.
    Held,
    /// It would be larger than what is read.
    TooLarge,
}

/// The folder of all files. Several processes may share it: a file is replaced
/// as a whole, and each writer looks at what is there first.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    swept: AtomicBool,
}

impl Folder {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, swept: AtomicBool::new(false) }
    }

    pub(super) fn path(&self, key: &Key) -> PathBuf {
        self.dir.join(key.file_name())
    }

    /// The set of `key`; `None` when it was never saved.
    pub(super) fn load(&self, key: &Key) -> Result<Option<Snapshot>, Unusable> {
        let bytes = match read(&self.path(key)) {
            Err(Unusable::Io(e)) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let snapshot = Stored::parse(&bytes)?.snapshot(key)?;
        match snapshot.age() {
            age if age > MOST_AGE => Err(Unusable::Old(age)),
            _ => Ok(Some(snapshot)),
        }
    }

    /// Saves `instances`, unless the file says the same and is younger than
    /// `fresh`, or they are much fewer than in the file and not `believed`. An
    /// empty set is never written without belief.
    pub(super) fn save(
        &self,
        key: &Key,
        instances: &[Instance],
        fresh: Duration,
        believed: bool,
    ) -> io::Result<Saved> {
        // What is there and cannot be used is replaced.
        if let Ok(Some(there)) = self.load(key) {
            if *there.instances == *instances && there.age() < fresh {
                return Ok(Saved::Same);
            }
            if !believed && there.collapses_to(instances) {
                return Ok(Saved::Held);
            }
        }
        if !believed && instances.is_empty() {
            return Ok(Saved::Held);
        }
        let bytes = serde_json::to_vec(&Stored::of(key, instances))?;
        if bytes.len() as u64 > MOST_BYTES {
            return Ok(Saved::TooLarge);
        }
        self.replace(&self.path(key), &bytes)?;
        Ok(Saved::Written)
    }

    /// Readers see the old file or the new one, also after a power loss.
    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        make(&self.dir)?;
        if !self.swept.swap(true, Relaxed) {
            self.sweep()?;
        }
        // Readable by its owner only.
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.dir)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        // The new name is durable with the folder; where a folder cannot be
        // synchronised, the old file may come back.
        let _ = File::open(&self.dir).and_then(|dir| dir.sync_all());
        Ok(())
    }

    /// Removes what processes left that were killed while they wrote.
    fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let abandoned = entry.metadata().and_then(|about| about.modified());
            let abandoned = abandoned.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > ABANDONED));
            if abandoned && entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                // Another process may have been quicker.
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }
}

/// Makes the folder, for its owner only.
fn make(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

fn read(path: &Path) -> Result<Vec<u8>, Unusable> {
    // Opening a pipe would wait for its writer.
    let about = fs::metadata(path)?;
    if !about.is_file() {
        return Err(Unusable::NoFile);
    }
    if about.len() > MOST_BYTES {
        return Err(Unusable::TooLong);
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What stands first in every format.
#[derive(Deserialize)]
struct Head {
    format: u64,
}

/// A file's content.
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

    fn parse(bytes: &[u8]) -> Result<Self, Unusable> {
        let garbage = |e: serde_json::Error| Unusable::Garbage(e.to_string());
        let Head { format } = serde_json::from_slice(bytes).map_err(garbage)?;
        if format != FORMAT {
            return Err(Unusable::Format(format));
        }
        serde_json::from_slice(bytes).map_err(garbage)
    }

    fn snapshot(self, key: &Key) -> Result<Snapshot, Unusable> {
        if (&self.service, &self.scope) != (&key.service, &key.scope) {
            return Err(Unusable::Foreign);
        }
        let saved = UNIX_EPOCH.checked_add(Duration::from_secs(self.saved_unix_s));
        let saved = saved.ok_or_else(|| Unusable::Garbage("its date is none".to_owned()))?;
        let instances = self.instances.into_iter().map(StoredInstance::instance);
        let instances = instances.collect::<Result<Vec<_>, _>>().map_err(Unusable::Garbage)?;
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
                Health::Passing => StoredHealth::Passing,
                Health::Warning => StoredHealth::Warning,
                Health::Critical => StoredHealth::Critical,
                Health::Maintenance => StoredHealth::Maintenance,
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
                StoredHealth::Passing => Health::Passing,
                StoredHealth::Warning => Health::Warning,
                StoredHealth::Critical => Health::Critical,
                StoredHealth::Maintenance => Health::Maintenance,
            },
            reason: self.reason,
            tags: self.tags,
            meta: self.meta,
            locality: locality.map_err(unusable)?,
        })
    }
}

/// A file of instances: what was read is written and read again as it was.
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
        Err(why) => assert!(why.to_string().len() <= crate::fuzzing::MOST_SAID, "{why}"),
    }
}

#[cfg(test)]
mod tests;
