//! A PostgreSQL server that keeps what it has acknowledged, can be killed, and
//! comes back where it was.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tokio::{
    process::Command,
    time::{Instant, sleep},
};

use crate::testbed::{ScenarioSetting, child::ChildProcess};

/// What it says once it answers.
const READY: &str = "LOG:  database system is ready";
/// How long the processes of a killed server may take to end, which the next
/// one waits for.
const GONE: Duration = Duration::from_secs(20);

/// The server, running or not.
#[derive(Debug)]
pub(crate) struct Postgres {
    programs: PathBuf,
    /// Who runs it where this program is root, which it refuses to be.
    user: Option<User>,
    logs: PathBuf,
    child: Option<ChildProcess>,
    folder: PathBuf,
    _temporary: Option<TempDir>,
}

#[derive(Clone, Copy, Debug)]
struct User {
    uid: u32,
    gid: u32,
}

impl Postgres {
    /// Makes a cluster in `folder`, or one of its own, and starts its server.
    ///
    /// # Errors
    /// When there is no PostgreSQL, or it does not come up.
    pub(crate) async fn start(setting: &ScenarioSetting, folder: Option<&Path>) -> Result<Self> {
        let temporary = match folder {
            Some(_) => None,
            // Not beside the logs: its user may not enter there.
            None => Some(tempfile::Builder::new().prefix("chaos-postgres-").tempdir()?),
        };
        let own = temporary.as_ref().map(|temporary| temporary.path().to_owned());
        let folder = folder.map(Path::to_owned).or(own).context("a server without a folder")?;
        let user = if rustix::process::geteuid().is_root() { Some(User::find()?) } else { None };
        if let Some(User { uid, gid }) = user {
            chown(&folder, Some(uid), Some(gid)).context("could not give the folder to its user")?;
        }
        let (programs, logs) = (programs()?, setting.logs.clone());
        let mut server = Self { programs, user, logs, child: None, folder, _temporary: temporary };
        server.initialise().await?;
        server.restart().await?;
        Ok(server)
    }

    /// Where a database of that name is, as `DATABASE_URL` has it.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@localhost/{database}?host={}", self.folder.display())
    }

    /// `kill -9` of the server; its processes end with it.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.child.take().context("the database server does not run")?.kill().await
    }

    /// Starts it where it was, and waits until it answers.
    ///
    /// # Errors
    /// When it does not come up; holds its last words.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        let until = Instant::now() + GONE;
        loop {
            let mut child = ChildProcess::start("postgres", &self.server(), &self.logs)?;
            match child.wait_for_line(READY).await {
                Ok(_) => {
                    self.child = Some(child);
                    return Ok(());
                }
                // Processes of the one that was killed still hold its memory.
                Err(error) if Instant::now() > until => return Err(error),
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Makes an empty database.
    ///
    /// # Errors
    /// When the server refuses.
    pub(super) async fn create(&mut self, database: &str) -> Result<()> {
        let mut create = Command::new(self.programs.join("createdb"));
        create.arg("-h").arg(&self.folder).args(["-U", "postgres", database]);
        done(create).await
    }

    async fn initialise(&self) -> Result<()> {
        let words =
            self.words("initdb", "-U postgres -A trust -E UTF8 --no-locale --no-sync --wal-segsize=1");
        let (program, args) = words.split_first().context("no program")?;
        let mut init = Command::new(program);
        init.args(args).current_dir(&self.folder);
        done(init).await
    }

    /// The server itself, writing to standard output. What it acknowledges is
    /// on disk: fsync and synchronous commit are as they come.
    fn server(&self) -> Vec<OsString> {
        let settings = "-c listen_addresses= -c max_connections=400 -c log_line_prefix=";
        let mut words = vec!["sh".into(), "-c".into(), "exec \"$@\" 2>&1".into(), "sh".into()];
        words.extend(self.words("postgres", settings));
        words.push("-k".into());
        words.push(self.folder.clone().into());
        words
    }

    /// A program of PostgreSQL's on our cluster, as its user, ended with this
    /// one.
    fn words(&self, program: &str, args: &str) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["setpriv".into()];
        if let Some(User { uid, gid }) = self.user {
            let user = [format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()];
            words.extend(user.map(OsString::from));
        }
        words.extend(["--pdeathsig=KILL".into(), self.programs.join(program).into_os_string()]);
        words.extend(["-D".into(), self.folder.join("data").into_os_string()]);
        words.extend(args.split(' ').map(OsString::from));
        words
    }
}

impl User {
    /// The user `postgres`, else `nobody`.
    fn find() -> Result<Self> {
        let users = fs::read_to_string("/etc/passwd").context("could not read /etc/passwd")?;
        let find = |name: &str| {
            let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
            let [_, _, uid, gid] = fields.into_iter().find(|f| f[0] == name)?.get(..4)?.try_into().ok()?;
            let (uid, gid): (&str, &str) = (uid, gid);
            Some(Self { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
        };
        find("postgres").or_else(|| find("nobody")).context("there is neither a user postgres nor nobody")
    }
}

/// Where the programs are: the newest of Debian's folders, else on PATH.
fn programs() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    found.sort_by_key(|bin| {
        let version = bin.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        version.and_then(|version| version.parse::<u32>().ok())
    });
    match found.into_iter().rev().find(|bin| bin.join("postgres").is_file()) {
        Some(bin) => Ok(bin),
        None => bail!("there is no PostgreSQL below /usr/lib/postgresql: run `cargo xtask setup`"),
    }
}

async fn done(mut command: Command) -> Result<()> {
    let output = command.output().await.context("could not start a program of PostgreSQL's")?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
