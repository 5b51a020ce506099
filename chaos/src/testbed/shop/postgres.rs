//! A real PostgreSQL server with durable commits, which can be killed and
//! restarted on its data.

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

use crate::{setting::ScenarioSetting, testbed::child::ChildProcess};

/// The log line of a server that is ready.
const READY_LINE: &str = "LOG:  database system is ready";
/// The limit on the end of a killed server's processes, which the next server
/// waits for.
const EXIT_TIMEOUT: Duration = Duration::from_secs(20);

/// The server, running or not.
#[derive(Debug)]
pub(crate) struct Postgres {
    programs: PathBuf,
    /// The user of the server if this program is root, which PostgreSQL refuses
    /// to run as.
    user: Option<User>,
    logs: PathBuf,
    child: Option<ChildProcess>,
    folder: TempDir,
}

#[derive(Clone, Copy, Debug)]
struct User {
    uid: u32,
    gid: u32,
}

impl Postgres {
    /// Initialises a cluster in a temporary folder and starts its server.
    ///
    /// # Errors
    /// When there is no PostgreSQL, or it does not start.
    pub(crate) async fn start(setting: &ScenarioSetting) -> Result<Self> {
        // Not beside the logs, which its user may not access.
        let folder = tempfile::Builder::new().prefix("chaos-postgres-").tempdir()?;
        let user = if rustix::process::geteuid().is_root() { Some(User::find()?) } else { None };
        if let Some(User { uid, gid }) = user {
            chown(folder.path(), Some(uid), Some(gid)).context("could not give the folder to its user")?;
        }
        let (programs, logs) = (programs()?, setting.logs.clone());
        let mut server = Self { programs, user, logs, child: None, folder };
        server.initialise().await?;
        server.restart().await?;
        Ok(server)
    }

    /// The `DATABASE_URL` of the database of that name.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@localhost/{database}?host={}", self.folder.path().display())
    }

    /// Sends SIGKILL to the server; its processes end with it.
    ///
    /// # Errors
    /// When it is not running.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.child.take().context("the database server is not running")?.kill().await
    }

    /// Starts the server again on its data, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start; quotes its last lines.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        let deadline = Instant::now() + EXIT_TIMEOUT;
        loop {
            let mut child = ChildProcess::start("postgres", &self.server(), &self.logs)?;
            match child.wait_for_line(READY_LINE).await {
                Ok(_) => {
                    self.child = Some(child);
                    return Ok(());
                }
                // Processes of the one that was killed still hold its memory.
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Creates an empty database.
    ///
    /// # Errors
    /// When the server rejects it.
    pub(super) async fn create(&mut self, database: &str) -> Result<()> {
        let mut create = Command::new(self.programs.join("createdb"));
        create.arg("-h").arg(self.folder.path()).args(["-U", "postgres", database]);
        run(create).await
    }

    async fn initialise(&self) -> Result<()> {
        let command =
            self.command("initdb", "-U postgres -A trust -E UTF8 --no-locale --no-sync --wal-segsize=1");
        let (program, args) = command.split_first().context("no program")?;
        let mut init = Command::new(program);
        init.args(args).current_dir(self.folder.path());
        run(init).await
    }

    /// The command of the server, which logs to standard output. Commits are
    /// durable: fsync and synchronous commit have their defaults.
    fn server(&self) -> Vec<OsString> {
        let settings = "-c listen_addresses= -c max_connections=400 -c log_line_prefix=";
        let mut command = vec!["sh".into(), "-c".into(), "exec \"$@\" 2>&1".into(), "sh".into()];
        command.extend(self.command("postgres", settings));
        command.push("-k".into());
        command.push(self.folder.path().into());
        command
    }

    /// The command of a PostgreSQL program on the cluster, as its user, killed
    /// with this process.
    fn command(&self, program: &str, args: &str) -> Vec<OsString> {
        let mut command: Vec<OsString> = vec!["setpriv".into()];
        if let Some(User { uid, gid }) = self.user {
            let user = [format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()];
            command.extend(user.map(OsString::from));
        }
        command.extend(["--pdeathsig=KILL".into(), self.programs.join(program).into_os_string()]);
        command.extend(["-D".into(), self.folder.path().join("data").into_os_string()]);
        command.extend(args.split(' ').map(OsString::from));
        command
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

/// The folder of the programs: the newest of Debian's folders.
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

async fn run(mut command: Command) -> Result<()> {
    let output = command.output().await.context("could not start a PostgreSQL program")?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
