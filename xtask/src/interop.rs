//! `cargo xtask interop`: gRPC's interop tests, both ways against other
//! implementations. The cases are the crate `interop`; this command builds the
//! other implementations' programs and runs it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{
    machine::{Machine, remove_folder},
    process, setup,
    terminal::print_line,
};

/// The module that pins grpc-go's interop programs.
const GO_MODULE: &str = "interop/foreign/go";
/// The programs of that module, by their packages.
const GO_PROGRAMS: [(&str, &str); 5] = [
    ("grpc-go-client", "google.golang.org/grpc/interop/client"),
    ("grpc-go-server", "google.golang.org/grpc/interop/server"),
    ("grpc-go-compressed", "consort/interop/foreign/compressed"),
    ("go-http-ends", "consort/interop/foreign/ends"),
    ("go-http2-resets", "consort/interop/foreign/resets"),
];

/// The Maven project that pins grpc-java's.
const JAVA_PROJECT: &str = "interop/foreign/java/pom.xml";
/// The test program on grpc-java, run from source.
const JAVA_PROGRAM: &str = "interop/foreign/java/StockServer.java";
/// The test program on gRPC core's Python package, and the file that pins the
/// package.
const CORE_PROGRAM: &str = "interop/foreign/python/core.py";
const CORE_PINS: &str = "interop/foreign/python/requirements.txt";
/// The time limit for pip to install three packages.
const PIP_TIMEOUT: Duration = Duration::from_mins(10);
/// The time limit for Maven to download some hundred small files.
const MAVEN_TIMEOUT: Duration = Duration::from_mins(15);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only this case; may be given more than once
    #[arg(long, value_name = "CASE")]
    only: Vec<String>,
    /// Show the cases instead of running them
    #[arg(long)]
    list: bool,
    /// Run the short form of `cargo xtask test`: grpc-go alone, and no case
    /// that takes long
    #[arg(long)]
    short: bool,
    /// The silent time in `silent_connection`, such as 10m [default: 70s]
    #[arg(long, value_name = "TIME")]
    silence: Option<String>,
    /// Against these implementations [default: all; grpc-go with --short]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PEER")]
    peers: Vec<InteropPeer>,
}

/// Another implementation of gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum InteropPeer {
    /// grpc-go
    Go,
    /// grpc-java
    Java,
    /// gRPC core, by its Python package
    Core,
}

/// Builds the peers, runs the cases and returns their exit code.
///
/// # Errors
/// When a peer cannot be built; names what is missing and how to get it.
pub(crate) fn run(machine: &Machine, arguments: &Arguments) -> Result<ExitCode> {
    let mut cargo = command(machine, arguments)?;
    let status = cargo.status().with_context(|| format!("could not start `{}`", process::show(&cargo)))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// The short form, as a step of `cargo xtask test`.
///
/// # Errors
/// When a peer cannot be built or a case failed.
pub(crate) fn short(machine: &Machine) -> Result<()> {
    let (only, peers) = (Vec::new(), Vec::new());
    let arguments = Arguments { only, list: false, short: true, silence: None, peers };
    let mut cargo = command(machine, &arguments)?;
    let shown = process::show(&cargo);
    let status = cargo.status().with_context(|| format!("could not start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status}); alone: cargo xtask interop --short");
    }
    Ok(())
}

/// Builds the peers and returns the command that runs the cases.
fn command(machine: &Machine, arguments: &Arguments) -> Result<Command> {
    let tools = machine.tools.join("interop");
    let peers = match (&arguments.peers[..], arguments.short) {
        ([], true) => vec![InteropPeer::Go],
        ([], false) => InteropPeer::value_variants().to_vec(),
        (chosen, _) => chosen.to_vec(),
    };
    let mut cargo = machine.command("cargo");
    cargo.args(["run", "--locked", "--quiet", "-p", "interop", "--", "--tools"]).arg(&tools);
    for peer in peers {
        if !arguments.list {
            peer.build(machine, &tools)?;
        }
        cargo.args(["--peers", peer.columns()]);
    }
    if let Some(silence) = &arguments.silence {
        cargo.args(["--silence", silence]);
    }
    for case in &arguments.only {
        cargo.args(["--only", case]);
    }
    for (given, flag) in [(arguments.list, "--list"), (arguments.short, "--short")] {
        if given {
            cargo.arg(flag);
        }
    }
    Ok(cargo)
}

impl InteropPeer {
    /// The peer's columns in the crate `interop`.
    fn columns(self) -> &'static str {
        match self {
            Self::Go => "go,go-gzip,go-http,go-frames",
            Self::Java => "java,java-health",
            Self::Core => "core",
        }
    }

    /// Builds the peer's programs in `tools`, unless they are there.
    fn build(self, machine: &Machine, tools: &Path) -> Result<()> {
        match self {
            Self::Go => go(machine, tools),
            Self::Java => java(machine, tools),
            Self::Core => core(machine, tools),
        }
    }
}

fn go(machine: &Machine, tools: &Path) -> Result<()> {
    for (name, package) in GO_PROGRAMS {
        let built: PathBuf = tools.join(name);
        if !built.is_file() {
            print_line(format_args!("building {name} (about a minute the first time)"));
        }
        setup::compile_go(machine, GO_MODULE, package, "-ldflags=-s -w", &built, name)
            .with_context(|| format!("could not build {name} from {GO_MODULE}/go.mod"))?;
    }
    Ok(())
}

/// Downloads grpc-java by Maven and writes its class path into a file of
/// arguments for `java`.
fn java(machine: &Machine, tools: &Path) -> Result<()> {
    for program in ["java", "mvn"] {
        if machine.on_path(program).is_none() {
            bail!(
                "there is no `{program}` on PATH: install a JDK and Maven (Debian: apt-get install \
                 default-jdk-headless maven), or exclude grpc-java by --peers"
            );
        }
    }
    fs::create_dir_all(tools).with_context(|| format!("could not create {}", tools.display()))?;
    fs::copy(machine.root.join(JAVA_PROGRAM), tools.join("StockServer.java"))
        .with_context(|| format!("could not copy {JAVA_PROGRAM}"))?;
    let classpath = tools.join("grpc-java.classpath");
    let mut maven = machine.command("mvn");
    maven.args(["-B", "-q", "-f", JAVA_PROJECT, "dependency:build-classpath"]);
    maven.arg(format!("-Dmdep.outputFile={}", classpath.display()));
    process::run(&mut maven, &machine.tools.join("logs/grpc-java.log"), MAVEN_TIMEOUT)
        .with_context(|| format!("could not download grpc-java by {JAVA_PROJECT}"))?;
    let classpath_text = fs::read_to_string(&classpath).context("could not read the class path")?;
    let arguments = tools.join("grpc-java.args");
    fs::write(&arguments, format!("-cp \"{}\"\n", classpath_text.trim()))
        .with_context(|| format!("could not write {}", arguments.display()))
}

/// Installs the packages into their own folder by pip, again when a pin
/// changes.
fn core(machine: &Machine, tools: &Path) -> Result<()> {
    let (packages, stamp) = (tools.join("grpc-core"), tools.join("grpc-core.stamp"));
    let read = |file: &str| {
        fs::read_to_string(machine.root.join(file)).with_context(|| format!("could not read {file}"))
    };
    let pins = read(CORE_PINS)?;
    fs::create_dir_all(tools).with_context(|| format!("could not create {}", tools.display()))?;
    fs::write(tools.join("grpc-core.py"), read(CORE_PROGRAM)?).context("could not write grpc-core.py")?;
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == pins) {
        return Ok(());
    }
    print_line("installing gRPC core's Python package");
    remove_folder(&packages).context("could not empty the folder of the Python packages")?;
    let mut pip = setup::pip(machine)?;
    pip.arg("--target").arg(&packages).args(["--requirement", CORE_PINS]);
    process::run(&mut pip, &machine.tools.join("logs/grpc-core.log"), PIP_TIMEOUT)
        .with_context(|| format!("could not install gRPC core by {CORE_PINS}"))?;
    fs::write(&stamp, pins).with_context(|| format!("could not write {}", stamp.display()))
}
