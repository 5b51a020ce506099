//! The paths on this machine: the repository, the tools that `setup` installed,
//! and the programs on PATH.

use std::{
    env,
    ffi::OsString,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow};

/// The environment, read once at the start.
#[derive(Debug)]
pub(crate) struct Machine {
    /// The repository's root.
    pub(crate) root: PathBuf,
    /// The folder into which `setup` installs: `CONSORT_TOOLS`, else
    /// `consort/tools` in the user's cache folder. It is outside `target/`
    /// because Consul takes five minutes to build again after `cargo clean`.
    pub(crate) tools: PathBuf,
    /// `CONSUL_BIN`: the Consul to use, whatever else is installed.
    pub(crate) consul_bin: Option<PathBuf>,
    path: Vec<PathBuf>,
    leaked: Vec<OsString>,
}

impl Machine {
    /// Reads the environment.
    ///
    /// # Errors
    /// When neither `CONSORT_TOOLS`, `XDG_CACHE_HOME` nor `HOME` is set.
    #[allow(clippy::disallowed_methods, reason = "the one place where xtask reads the environment")]
    pub(crate) fn from_env() -> Result<Self> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty());
        let cache = || {
            set("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or_else(|| set("HOME").map(|home| Path::new(&home).join(".cache")))
                .map(|cache| cache.join("consort/tools"))
        };
        let tools = set("CONSORT_TOOLS").map(PathBuf::from).or_else(cache).ok_or_else(|| {
            anyhow!("no folder to install tools into: HOME is not set; set CONSORT_TOOLS to a folder")
        })?;
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask is not in a folder of the repository")?;
        Ok(Self {
            root: root.to_owned(),
            tools: std::path::absolute(tools).context("CONSORT_TOOLS is not a usable path")?,
            consul_bin: set("CONSUL_BIN").map(PathBuf::from),
            path: set("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default(),
            leaked: env::vars_os().map(|(name, _)| name).filter(set_by_cargo_run).collect(),
        })
    }

    /// The folder of the installed programs, where tests look after PATH.
    pub(crate) fn bin(&self) -> PathBuf {
        self.tools.join("bin")
    }

    /// The program of that name on PATH, if there is one. The tools' own folder is
    /// skipped even when it is on PATH, because its programs must match their pins.
    pub(crate) fn on_path(&self, program: &str) -> Option<PathBuf> {
        let bin = self.bin();
        self.path
            .iter()
            .filter(|folder| **folder != bin)
            .map(|folder| folder.join(program))
            .find(|file| is_executable(file))
    }

    /// True when the folder is on PATH.
    pub(crate) fn has_on_path(&self, folder: &Path) -> bool {
        self.path.iter().any(|entry| entry == folder)
    }

    /// A command that finds the installed tools, in the repository's root.
    pub(crate) fn command(&self, program: impl Into<OsString>) -> Command {
        let mut command = Command::new(program.into());
        command.current_dir(&self.root);
        let path = self.path.iter().cloned().chain([self.bin()]);
        // A folder with `:` in its name cannot be on PATH at all.
        if let Ok(path) = env::join_paths(path) {
            command.env("PATH", path);
        }
        for name in &self.leaked {
            command.env_remove(name);
        }
        command
    }
}

/// True for a variable by which `cargo run` describes xtask's own package. A
/// build script that depends on these variables would run again whenever a
/// build by xtask follows one by hand.
fn set_by_cargo_run(name: &OsString) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "CARGO"
}

/// True for a file with an execute permission.
pub(crate) fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// Creates a folder of the tools, and its parents.
pub(crate) fn create_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| {
        format!("could not create {}; set CONSORT_TOOLS to another folder", folder.display())
    })
}

/// Removes a folder and its contents, if the folder exists.
pub(crate) fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
