//! The other implementations: their programs and the cases that each supports.

use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use tokio::{
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::{
    cases::{Case, Group},
    proto::DESCRIPTORS,
    server,
};

mod core;
mod go;
mod java;

/// The time limit for a server to accept connections; a JVM on a busy machine
/// is the slowest.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// The interval of connection attempts to a server that starts.
const START_INTERVAL: Duration = Duration::from_millis(20);
/// The time limit of one case of another client.
const CASE_TIMEOUT: Duration = Duration::from_secs(60);
/// Characters of a failed client's output that are shown at most.
const MAX_OUTPUT: usize = 600;

/// The names of the implementations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PeerName {
    /// This library, against itself.
    Ours,
    /// grpc-go.
    Go,
    /// grpc-go, with every message compressed.
    GoGzip,
    /// Go's net/http, without gRPC.
    GoHttp,
    /// Go's HTTP/2 frames, one by one.
    GoFrames,
    /// grpc-java.
    Java,
    /// grpc-java with a health service.
    JavaHealth,
    /// gRPC core.
    Core,
}

/// The command line that runs a server on a port.
type ServerCommand = fn(&Path, u16) -> Vec<OsString>;
/// The command line that runs one case of a client.
type ClientCommand = fn(&Path, &str, SocketAddr) -> Vec<OsString>;

/// An implementation: its programs and its cases.
#[derive(Debug)]
pub(crate) struct Peer {
    /// The groups that its server supports.
    serves: &'static [Group],
    /// The groups that its client supports.
    calls: &'static [Group],
    /// The command line that runs its interop server; `None` runs our server in
    /// this process.
    server: Option<ServerCommand>,
    /// The command line that runs one case of its interop client; `None` is our
    /// client.
    client: Option<ClientCommand>,
    /// The cases that its server does not support, with the reasons.
    server_lacks: &'static [(&'static str, &'static str)],
    /// The cases that its client does not have, with the reasons.
    client_lacks: &'static [(&'static str, &'static str)],
}

impl PeerName {
    /// The name in the table's head.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Go => "go",
            Self::GoGzip => "go+gzip",
            Self::GoHttp => "net/http",
            Self::GoFrames => "frames",
            Self::Java => "java",
            Self::JavaHealth => "java+health",
            Self::Core => "core",
        }
    }

    fn peer(self) -> &'static Peer {
        match self {
            Self::Ours => &OURS,
            Self::Go => &go::PEER,
            Self::GoGzip => &go::GZIP,
            Self::GoHttp => &go::HTTP,
            Self::GoFrames => &go::FRAMES,
            Self::Java => &java::PEER,
            Self::JavaHealth => &java::HEALTH,
            Self::Core => &core::PEER,
        }
    }

    /// True when its server supports the case's group.
    pub(crate) fn serves(self, case: &Case) -> bool {
        self.peer().serves.contains(&case.group)
    }

    /// True when its client supports the case's group.
    pub(crate) fn calls(self, case: &Case) -> bool {
        self.peer().calls.contains(&case.group)
    }

    /// The reason for which its server does not support the case, if any.
    pub(crate) fn server_lacks(self, case: &str) -> Option<&'static str> {
        reason(self.peer().server_lacks, case)
    }

    /// The reason for which its client does not have the case, if any.
    pub(crate) fn client_lacks(self, case: &str) -> Option<&'static str> {
        reason(self.peer().client_lacks, case)
    }

    /// Writes the files that its programs read.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn prepare(self, tools: &Path) -> Result<()> {
        if self != Self::Core {
            return Ok(());
        }
        let file = tools.join(core::DESCRIPTORS);
        std::fs::write(&file, DESCRIPTORS).with_context(|| format!("could not write {}", file.display()))
    }

    /// Starts its interop server; returns when it accepts connections.
    ///
    /// # Errors
    /// When it cannot be started, or does not accept within [`START_TIMEOUT`].
    pub(crate) async fn serve(self, tools: &Path) -> Result<RunningServer> {
        match self.peer().server {
            None => RunningServer::ours().await,
            Some(words) => {
                let port = free_port().await?;
                RunningServer::program(&words(tools, port), port).await
            }
        }
    }

    /// Runs one case of its client against `server`.
    ///
    /// # Errors
    /// When the case failed; the message has the end of the client's output.
    pub(crate) async fn call(self, tools: &Path, case: &str, server: SocketAddr) -> Result<()> {
        let words = self.peer().client.context("our client does not run as a program")?;
        let mut command = command(&words(tools, case, server))?;
        let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output();
        let output = timeout(CASE_TIMEOUT, output)
            .await
            .with_context(|| format!("it did not end within {CASE_TIMEOUT:?}"))?
            .context("could not start the client")?;
        if output.status.success() {
            return Ok(());
        }
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let skipped = text.chars().count().saturating_sub(MAX_OUTPUT);
        let end: String = text.chars().skip(skipped).collect();
        bail!("the client ended with {}: {}", output.status, end.trim())
    }
}

/// The groups that a server of the whole test service supports.
const SERVES: &[Group] = &[Group::Official, Group::Deadlines, Group::Silence];

const OURS: Peer = Peer {
    serves: &[Group::Official, Group::Deadlines, Group::Silence, Group::Gzip],
    calls: &[],
    server: None,
    client: None,
    server_lacks: &[("server_compressed_streaming", "tonic compresses all messages of a stream, or none")],
    client_lacks: &[],
};

fn reason(lacks: &[(&str, &'static str)], case: &str) -> Option<&'static str> {
    lacks.iter().find(|(name, _)| *name == case).map(|(_, why)| *why)
}

/// A server that accepts connections. Dropping it ends the server.
#[derive(Debug)]
pub(crate) struct RunningServer {
    pub(crate) address: SocketAddr,
    _owner: ServerGuard,
}

/// Ends a server when it is dropped.
#[derive(Debug)]
enum ServerGuard {
    Task(#[expect(dead_code, reason = "held to be stopped when dropped")] AbortOnDrop),
    Process(#[expect(dead_code, reason = "held to be killed when dropped")] Child),
}

#[derive(Debug)]
struct AbortOnDrop(JoinHandle<Result<()>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl RunningServer {
    /// Starts our server.
    ///
    /// # Errors
    /// When no port is free.
    pub(crate) async fn ours() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no free port")?;
        let address = listener.local_addr()?;
        let owner = ServerGuard::Task(AbortOnDrop(tokio::spawn(server::run(listener))));
        Ok(Self { address, _owner: owner })
    }

    async fn program(words: &[OsString], port: u16) -> Result<Self> {
        let mut command = command(words)?;
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut child = child.with_context(|| start_error(&words[0]))?;
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let until = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(address).await.is_err() {
            if let Some(status) = child.try_wait()? {
                bail!("{} ended with {status} before it accepted connections", words[0].display());
            }
            if Instant::now() > until {
                bail!("{} did not accept connections within {START_TIMEOUT:?}", words[0].display());
            }
            sleep(START_INTERVAL).await;
        }
        Ok(Self { address, _owner: ServerGuard::Process(child) })
    }
}

fn command(words: &[OsString]) -> Result<Command> {
    let (program, args) = words.split_first().context("the command line is empty")?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    Ok(command)
}

fn start_error(program: &OsString) -> String {
    format!("could not start {}; `cargo xtask interop` builds it", PathBuf::from(program).display())
}

/// A port that is free now, below the range of outgoing connections, because
/// these servers cannot inherit a listener.
async fn free_port() -> Result<u16> {
    const PORTS: std::ops::Range<u16> = 12_000..20_000;
    let first = u16::try_from(std::process::id() % 8_000)?;
    for n in 0..PORTS.end - PORTS.start {
        let port = PORTS.start + (first + n) % (PORTS.end - PORTS.start);
        // Most of the servers bind the wildcard address.
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await.is_ok() {
            return Ok(port);
        }
    }
    bail!("no port of {PORTS:?} is free")
}
