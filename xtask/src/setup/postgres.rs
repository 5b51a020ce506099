//! Finds PostgreSQL's server. Debian keeps it off PATH, one folder per version.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::machine::{Machine, is_executable};

const DEBIAN: &str = "/usr/lib/postgresql";

/// The `postgres` that tests start: on PATH, else Debian's newest, in both
/// cases only with `initdb` beside it.
pub(crate) fn find(machine: &Machine) -> Option<PathBuf> {
    let on_path = machine.on_path("postgres").filter(|_| machine.on_path("initdb").is_some());
    on_path.or_else(|| newest(Path::new(DEBIAN)))
}

fn newest(folder: &Path) -> Option<PathBuf> {
    fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            let bin = entry.path().join("bin");
            let is_complete = ["postgres", "initdb"].iter().all(|program| is_executable(&bin.join(program)));
            is_complete.then(|| (version, bin.join("postgres")))
        })
        .max()
        .map(|(_, postgres)| postgres)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn install(folder: &Path, programs: &[&str]) {
        fs::create_dir_all(folder).unwrap();
        for program in programs {
            let file = folder.join(program);
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    #[test]
    fn the_newest_complete_server_is_found() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(newest(root.path()), None);
        install(&root.path().join("9/bin"), &["postgres", "initdb"]);
        install(&root.path().join("15/bin"), &["postgres", "initdb"]);
        install(&root.path().join("17/bin"), &["psql"]);
        assert_eq!(newest(root.path()), Some(root.path().join("15/bin/postgres")));
    }
}
