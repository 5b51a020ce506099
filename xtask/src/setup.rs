//! `cargo xtask setup`: the tools of the tests, installed once and kept.
//!
//! A program on PATH is used as it is. Every other program is pinned by a file
//! of this repository, built in a staging folder, run once for its version, and
//! then renamed into place beside a stamp of its pin. So a later run never uses
//! the result of an interrupted one, and a changed pin installs the program
//! again.

mod apt;
mod consul;
mod go;
mod pip;
mod postgres;
mod stamp;
mod tool;

use std::{
    fmt, fs,
    fs::File,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail};

pub(crate) use self::{go::compile as compile_go, pip::command as pip, tool::ToolName};
use self::{
    stamp::Stamp,
    tool::{Source, Tool},
};
use crate::{
    machine::{Machine, create_folder, is_executable, remove_folder},
    process,
    terminal::print_line,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only these tools [default: all that `cargo xtask test` needs]
    #[arg(value_name = "TOOL")]
    tools: Vec<ToolName>,
    /// Also the tool that counts instructions (valgrind)
    #[arg(long)]
    bench: bool,
}

/// The tools of `cargo xtask test`.
pub(crate) const FOR_TESTS: [ToolName; 14] = ToolName::FOR_TESTS;

/// An installed tool and its origin.
struct InstalledTool {
    version: String,
    path: PathBuf,
    origin: String,
}

impl fmt::Display for InstalledTool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<9} {} ({})", self.version, self.path.display(), self.origin)
    }
}

/// Installs the tools that the arguments select.
///
/// # Errors
/// Names every tool that could not be installed, the cause, and the way to
/// install it by hand.
pub(crate) fn run(machine: &Machine, arguments: &Arguments) -> Result<()> {
    let mut names = arguments.tools.clone();
    if names.is_empty() {
        names.extend(ToolName::FOR_TESTS);
    }
    if arguments.bench {
        names.extend(ToolName::FOR_BENCH);
    }
    ensure(machine, &names)?;
    if !machine.has_on_path(&machine.bin()) {
        print_line(format_args!("to use them yourself: export PATH=\"$PATH:{}\"", machine.bin().display()));
    }
    Ok(())
}

/// Installs the tools that are missing and prints a line for each tool.
///
/// # Errors
/// As [`run`]; a tool that fails does not stop the others.
pub(crate) fn ensure(machine: &Machine, names: &[ToolName]) -> Result<()> {
    let mut failures = Vec::new();
    for tool in names.iter().map(|name| name.tool()) {
        match ensure_tool(machine, &tool) {
            Ok(found) => print_line(format_args!("{:<14} {found}", tool.name)),
            Err(error) => {
                print_line(format_args!("{:<14} failed", tool.name));
                failures.push(format!("{} could not be installed: {error:#}\n  {}", tool.name, tool.by_hand));
            }
        }
    }
    if failures.is_empty() {
        return Ok(());
    }
    bail!("{}", failures.join("\n\n"))
}

/// The Consul that tests will run: `CONSUL_BIN`, else on PATH, else the kept one.
pub(crate) fn consul(machine: &Machine) -> Option<PathBuf> {
    let kept = machine.bin().join("consul");
    let found = machine.consul_bin.clone().or_else(|| machine.on_path("consul"));
    found.or_else(|| is_executable(&kept).then_some(kept))
}

fn ensure_tool(machine: &Machine, tool: &Tool) -> Result<InstalledTool> {
    if let Some(found) = find_installed(machine, tool)? {
        return Ok(found);
    }
    if let Source::Rustup = tool.source {
        bail!("this Rust toolchain lacks the component `{}`", tool.name);
    }
    let _lock = lock(machine)?;
    // Another setup may have installed it while this one waited for the lock.
    if let Some(found) = find_installed(machine, tool)? {
        return Ok(found);
    }
    print_line(format_args!("{:<14} installing{}", tool.name, tool.progress_note));
    let started = Instant::now();
    let mut found = install(machine, tool)?;
    found.origin = format!("{}, {:.1} s", found.origin, started.elapsed().as_secs_f64());
    Ok(found)
}

/// The tool, if it is installed already.
fn find_installed(machine: &Machine, tool: &Tool) -> Result<Option<InstalledTool>> {
    let installed = |path: PathBuf, origin: &str| {
        let version = version(machine, tool, &path)?;
        Ok(Some(InstalledTool { version, path, origin: origin.to_owned() }))
    };
    if let (Source::Consul { .. }, Some(path)) = (&tool.source, &machine.consul_bin) {
        return installed(path.clone(), "CONSUL_BIN").with_context(|| {
            format!(
                "CONSUL_BIN is `{}`, which did not print a version of Consul; unset it or set another path",
                path.display()
            )
        });
    }
    match &tool.source {
        Source::Rustup => {
            let cargo = machine.on_path(tool.program);
            cargo.map_or(Ok(None), |path| installed(path, "on PATH").or(Ok(None)))
        }
        Source::Postgres => match postgres::find(machine) {
            Some(path) => installed(path, "installed"),
            None => Ok(None),
        },
        _ => match machine.on_path(tool.program) {
            Some(path) => installed(path, "on PATH"),
            None => Ok(find_kept(machine, tool)?),
        },
    }
}

/// The tool as an earlier run installed it, if its pin is still the same.
fn find_kept(machine: &Machine, tool: &Tool) -> Result<Option<InstalledTool>> {
    let path = machine.bin().join(tool.program);
    let Some(stamp) = Stamp::read(machine, tool).filter(|_| is_executable(&path)) else { return Ok(None) };
    let valid = pins(machine, tool)?.contains(&stamp.pin);
    Ok(valid.then_some(InstalledTool { version: stamp.version, path, origin: stamp.origin }))
}

/// The valid pins of a kept tool; the first one is used to install it.
fn pins(machine: &Machine, tool: &Tool) -> Result<Vec<String>> {
    match &tool.source {
        Source::Python { distribution } => Ok(vec![pip::pin(machine, distribution)?]),
        Source::Go(module) => Ok(vec![go::pin(machine, module)?]),
        Source::Consul { current } => consul::pins(machine, current),
        Source::Rustup | Source::Postgres | Source::Debian { .. } => Ok(Vec::new()),
    }
}

fn install(machine: &Machine, tool: &Tool) -> Result<InstalledTool> {
    match &tool.source {
        Source::Postgres | Source::Debian { .. } => {
            apt::install(machine, tool)?;
            find_installed(machine, tool)?.context("the package was installed, but the program is not found")
        }
        Source::Rustup => bail!("setup does not install components of the Rust toolchain"),
        Source::Python { .. } | Source::Go(_) | Source::Consul { .. } => install_kept(machine, tool),
    }
}

/// Builds the program in a staging folder, runs it for its version, and renames
/// it into place.
fn install_kept(machine: &Machine, tool: &Tool) -> Result<InstalledTool> {
    let staging = machine.tools.join("staging").join(tool.name);
    remove_folder(&staging).context("could not empty the staging folder")?;
    create_folder(&staging)?;
    create_folder(&machine.bin())?;

    let pin = pins(machine, tool)?.into_iter().next().context("a kept tool has a pin")?;
    let built = staging.join(tool.program);
    let origin = match &tool.source {
        Source::Python { distribution } => pip::install(machine, tool, distribution, &staging)?,
        Source::Go(module) => go::build(machine, tool, module, &built)?,
        Source::Consul { current } => consul::build(machine, tool, current, &built)?,
        Source::Rustup | Source::Postgres | Source::Debian { .. } => bail!("{} is not kept", tool.name),
    };
    let version = version(machine, tool, &built)?;
    let path = machine.bin().join(tool.program);
    fs::rename(&built, &path).with_context(|| format!("could not put {} into place", path.display()))?;
    Stamp { pin, version: version.clone(), origin: origin.clone() }.write(machine, tool)?;
    remove_folder(&staging).context("could not remove the staging folder")?;
    Ok(InstalledTool { version, path, origin })
}

/// Runs the program for its version, which also shows that it runs on this
/// machine.
fn version(machine: &Machine, tool: &Tool, path: &Path) -> Result<String> {
    let output = process::query(machine.command(path).args(tool.version))?;
    version_in(&output)
        .map(str::to_owned)
        .with_context(|| format!("{} did not print a version: {}", path.display(), output.trim()))
}

/// The first `1.22` or `1.22.5` in a text.
fn version_in(text: &str) -> Option<&str> {
    text.split(|c: char| !(c.is_ascii_digit() || c == '.'))
        .map(|word| word.trim_matches('.'))
        .find(|word| word.contains('.'))
}

fn lock(machine: &Machine) -> Result<File> {
    create_folder(&machine.tools)?;
    let path = machine.tools.join("lock");
    let file = File::create(&path).with_context(|| format!("could not write {}", path.display()))?;
    if file.try_lock().is_err() {
        print_line("waiting for another `cargo xtask setup` to end");
        file.lock().with_context(|| format!("could not lock {}", path.display()))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_what_each_tool_prints() {
        let cases = [
            ("Consul v1.22.5\nBuild Date 1970-01-01", "1.22.5"),
            ("grpcurl v1.9.4\n", "1.9.4"),
            ("nats-server: v2.15.2\n", "2.15.2"),
            ("curl 7.88.1 (x86_64-pc-linux-gnu) libcurl/7.88.1 OpenSSL/3.0.20\n", "7.88.1"),
            ("cargo-nextest 0.9.148 (abc 2026-01-01)", "0.9.148"),
            ("postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)", "15.13"),
            ("valgrind-3.19.0", "3.19.0"),
        ];
        for (text, version) in cases {
            assert_eq!(version_in(text), Some(version), "{text}");
        }
        assert_eq!(version_in("no version at all."), None);
    }
}
