//! Folders and files that only their owner may read: a database may hold the keys
//! that sign all tokens.
//!
//! Files created here are private whatever the umask. SQLite gives its log and
//! the log's index the mode of the database. Files with wider permissions are
//! rejected while callers are authenticated, and not silently repaired: the
//! operator has to know that they could be read.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

const FOLDER: u32 = 0o700;
const FILE: u32 = 0o600;
/// The permission bits of the group and of other users.
const OTHERS: u32 = 0o077;
/// The suffixes of the files that SQLite creates beside a database.
const SUFFIXES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Creates a folder and its missing parents, for their owner only. An existing
/// folder stays as it is.
///
/// # Errors
/// When it cannot be created.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER).create(folder)
}

/// Makes a folder private to its owner, for a program that owns it. Returns true
/// when others could enter it.
///
/// # Errors
/// When its mode cannot be changed.
pub fn narrow_folder(folder: &Path) -> io::Result<bool> {
    narrow(folder, FOLDER)
}

/// Makes the files in a folder private, like [`narrow_folder`].
///
/// # Errors
/// When the mode of one cannot be changed.
pub fn narrow_files(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // Never through a symbolic link, which may lead out of the folder.
        if entry.file_type()?.is_file() {
            narrow(&entry.path(), FILE)?;
        }
    }
    Ok(())
}

fn narrow(path: &Path, mode: u32) -> io::Result<bool> {
    let is_open = mode_of(path)?.is_some_and(|mode| mode & OTHERS != 0);
    if is_open {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    Ok(is_open)
}

/// Opens the file `path` for appending, and creates it for its owner only if it
/// does not exist.
pub(crate) fn open_file(path: &Path) -> io::Result<fs::File> {
    OpenOptions::new().create(true).append(true).mode(FILE).open(path)
}

/// Checks that only the owner can read the SQLite database `file` and, where it
/// is given, its `folder`.
///
/// # Errors
/// When others can, with the command that fixes it.
pub(crate) fn check(folder: Option<&Path>, file: &Path) -> Result<(), String> {
    let beside = SUFFIXES.iter().map(|suffix| {
        let mut name = file.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    });
    let files: Vec<PathBuf> = [file.to_owned()].into_iter().chain(beside).collect();
    let folders: Vec<PathBuf> = folder.into_iter().map(Path::to_owned).collect();
    let mut found = Vec::new();
    let mut fixes = Vec::new();
    for (paths, mode) in [(folders, FOLDER), (files, FILE)] {
        let open = paths.into_iter().filter_map(|path| Some((mode_of(&path).ok()??, path)));
        let open: Vec<_> = open.filter(|(mode, _)| mode & OTHERS != 0).collect();
        if open.is_empty() {
            continue;
        }
        let names: Vec<_> = open.iter().map(|(_, path)| quoted(path)).collect();
        fixes.push(format!("chmod {mode:o} {}", names.join(" ")));
        found.extend(open.iter().map(|(mode, path)| format!("{} has mode {mode:04o}", path.display())));
    }
    if found.is_empty() {
        return Ok(());
    }
    Err(format!(
        "other users of this machine can read the data, which may contain the signing keys of tokens: {}; run `{}`, \
         or set AUTH=off",
        found.join(", "),
        fixes.join(" && ")
    ))
}

/// The permissions of a file or folder, if it exists.
fn mode_of(path: &Path) -> io::Result<Option<u32>> {
    match fs::metadata(path) {
        Ok(about) => Ok(Some(about.permissions().mode() & 0o7777)),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(why),
    }
}

/// Quotes a path for a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%=".contains(c);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        mode_of(path).unwrap().unwrap()
    }

    #[test]
    fn created_files_are_private_and_accepted() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("state/data");
        make_folder(&folder).unwrap();
        let file = folder.join("user.db");
        drop(open_file(&file).unwrap());
        assert_eq!((mode(&home.path().join("state")), mode(&folder), mode(&file)), (0o700, 0o700, 0o600));
        check(Some(&folder), &file).unwrap();
    }

    #[test]
    fn the_command_in_the_error_fixes_it() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("it's data");
        make_folder(&folder).unwrap();
        let (file, log) = (folder.join("user.db"), folder.join("user.db-wal"));
        for path in [&file, &log] {
            fs::write(path, "").unwrap();
            set(path, 0o640);
        }
        set(&folder, 0o755);
        let why = check(Some(&folder), &file).unwrap_err();
        assert!(why.contains("mode 0640") && why.contains("mode 0755"), "{why}");
        let command = why.split('`').nth(1).unwrap();
        let done = std::process::Command::new("sh").args(["-c", command]).status().unwrap();
        assert!(done.success() && check(Some(&folder), &file).is_ok(), "{command}");
        assert_eq!((mode(&folder), mode(&file), mode(&log)), (0o700, 0o600, 0o600));
    }

    #[test]
    fn the_own_folder_is_narrowed_and_no_target_of_a_link() {
        let home = tempfile::tempdir().unwrap();
        let (folder, other) = (home.path().join("data"), home.path().join("other"));
        fs::create_dir(&folder).unwrap();
        for path in [&other, &folder.join("user.db")] {
            fs::write(path, "").unwrap();
            set(path, 0o644);
        }
        set(&folder, 0o755);
        std::os::unix::fs::symlink(&other, folder.join("link")).unwrap();
        assert!(narrow_folder(&folder).unwrap() && !narrow_folder(&folder).unwrap());
        narrow_files(&folder).unwrap();
        assert_eq!((mode(&folder), mode(&folder.join("user.db")), mode(&other)), (0o700, 0o600, 0o644));
    }
}
