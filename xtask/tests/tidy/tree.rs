//! The repository's files as text.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Folders that are never committed.
const IGNORED_FOLDERS: [&str; 3] = ["target", "node_modules", "shared"];
/// Folders with a leading dot that belong to the project.
const DOT_FOLDERS: [&str; 3] = [".cargo", ".ci", ".config"];

/// A text file.
#[derive(Debug, Clone)]
pub(crate) struct File {
    /// The path from the repository's root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// All files of the project.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) files: Vec<File>,
    /// Files that are not text.
    pub(crate) binaries: Vec<String>,
}

impl Tree {
    /// Reads the repository that this test was built from.
    pub(crate) fn load() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is in the repository");
        let mut tree = Self::default();
        tree.read(root, root);
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        assert!(tree.file("Cargo.toml").is_some(), "{} is not the repository", root.display());
        tree
    }

    /// A tree of the given files, for the tests of the rules.
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let file = |&(path, text): &(&str, &str)| File { path: path.to_owned(), text: text.to_owned() };
        Self { files: files.iter().map(file).collect(), binaries: Vec::new() }
    }

    /// The file at that path.
    pub(crate) fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// All Rust files.
    pub(crate) fn rust(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.path.ends_with(".rs"))
    }

    /// The Rust files of the programs and libraries, without tests and
    /// benchmarks.
    pub(crate) fn shipped_rust(&self) -> impl Iterator<Item = &File> {
        const TESTS: [&str; 3] = ["tests", "benches", "tests.rs"];
        self.rust().filter(|file| !file.path.split('/').any(|part| TESTS.contains(&part)))
    }

    fn read(&mut self, root: &Path, folder: &Path) {
        let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for path in entries.map(|entry| entry.expect("a readable folder").path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                let hidden = name.starts_with('.') && !DOT_FOLDERS.contains(&name.as_ref());
                if !hidden && !IGNORED_FOLDERS.contains(&name.as_ref()) {
                    self.read(root, &path);
                }
            } else if !name.starts_with('.') && !name.ends_with(".log") {
                self.add(root, path);
            }
        }
    }

    fn add(&mut self, root: &Path, file: PathBuf) {
        let path = file.strip_prefix(root).expect("a file of the tree").to_string_lossy().replace('\\', "/");
        match fs::read(&file).map(String::from_utf8) {
            Ok(Ok(text)) => self.files.push(File { path, text }),
            Ok(Err(_)) => self.binaries.push(path),
            // Another test may have removed the file meanwhile.
            Err(_) => {}
        }
    }
}
