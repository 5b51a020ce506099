//! `cargo xtask setup`: what the tests need, installed once and kept.
//!
//! A program on PATH is taken as it is. Everything else is pinned by a file of
//! this repository, made in a staging folder, tried, and only then renamed into
//! place beside a stamp of its pin; so an interrupted run leaves nothing behind
//! that a later run would believe, and a changed pin installs anew.

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

pub(crate) use self::{go::compile as compile_go, pip::command as pip, tool::Name};
use self::{
    stamp::Stamp,
    tool::{Source, Tool},
};
use crate::{
    machine::{Machine, is_executable, remove_folder},
    process, say,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only these tools [default: all that `cargo xtask test` needs]
    #[arg(value_name = "TOOL")]
    tools: Vec<Name>,
    /// Also what counting instructions needs (valgrind)
    #[arg(long)]
    bench: bool,
}

/// What `cargo xtask test` needs.
pub(crate) const FOR_TESTS: [Name; 14] = Name::FOR_TESTS;

/// A tool that is there, and where it was had.
struct Found {
    version: String,
    path: PathBuf,
    origin: String,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<9} {} ({})", self.version, self.path.display(), self.origin)
    }
}

/// The command itself.
///
/// # Errors
/// Names every tool that could not be had, why, and how to get it by hand.
pub(crate) fn run(machine: &Machine, arguments: &Arguments) -> Result<()> {
    let mut names = arguments.tools.clone();
    if names.is_empty() {
        names.extend(Name::FOR_TESTS);
    }
    if arguments.bench {
        names.extend(Name::FOR_BENCH);
    }
    ensure(machine, &names)?;
    if !machine.has_on_path(&machine.bin()) {
        say(format_args!("to use them yourself: export PATH=\"$PATH:{}\"", machine.bin().display()));
    }
    Ok(())
}

/// Makes sure that these tools are there, printing a line for each.
///
/// # Errors
/// As [`run`]; the others are installed all the same.
pub(crate) fn ensure(machine: &Machine, names: &[Name]) -> Result<()> {
    let mut failures = Vec::new();
    for tool in names.iter().map(|name| name.tool()) {
        match had(machine, &tool) {
            Ok(found) => say(format_args!("{:<14} {found}", tool.name)),
            Err(error) => {
                say(format_args!("{:<14} failed", tool.name));
                failures.push(format!("{} could not be had: {error:#}\n  {}", tool.name, tool.by_hand));
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

fn had(machine: &Machine, tool: &Tool) -> Result<Found> {
    if let Some(found) = present(machine, tool)? {
        return Ok(found);
    }
    if let Source::Rustup = tool.source {
        bail!("this Rust toolchain lacks the component `{}`", tool.name);
    }
    let _lock = lock(machine)?;
    // Another setup may have brought it while this one waited for the lock.
    if let Some(found) = present(machine, tool)? {
        return Ok(found);
    }
    say(format_args!("{:<14} installing{}", tool.name, tool.patience));
    let started = Instant::now();
    let mut found = install(machine, tool)?;
    found.origin = format!("{}, {:.1} s", found.origin, started.elapsed().as_secs_f64());
    Ok(found)
}

/// The tool, if nothing needs to be done.
fn present(machine: &Machine, tool: &Tool) -> Result<Option<Found>> {
    let asked = |path: PathBuf, origin: &str| {
        let version = version(machine, tool, &path)?;
        Ok(Some(Found { version, path, origin: origin.to_owned() }))
    };
    if let (Source::Consul { .. }, Some(path)) = (&tool.source, &machine.consul_bin) {
        return asked(path.clone(), "CONSUL_BIN").with_context(|| {
            format!(
                "CONSUL_BIN is `{}`, which is no Consul that runs here; unset it or name another",
                path.display()
            )
        });
    }
    match &tool.source {
        Source::Rustup => {
            let cargo = machine.on_path(tool.program);
            cargo.map_or(Ok(None), |path| asked(path, "on PATH").or(Ok(None)))
        }
        Source::Postgres => match postgres::find(machine) {
            Some(path) => asked(path, "installed"),
            None => Ok(None),
        },
        _ => match machine.on_path(tool.program) {
            Some(path) => asked(path, "on PATH"),
            None => Ok(kept(machine, tool)?),
        },
    }
}

/// The tool as an earlier run installed it, if its pin is still the same.
fn kept(machine: &Machine, tool: &Tool) -> Result<Option<Found>> {
    let path = machine.bin().join(tool.program);
    let Some(stamp) = Stamp::read(machine, tool).filter(|_| is_executable(&path)) else { return Ok(None) };
    let valid = pins(machine, tool)?.contains(&stamp.pin);
    Ok(valid.then_some(Found { version: stamp.version, path, origin: stamp.origin }))
}

/// The pins that a kept tool may have been installed by, the one to install by first.
fn pins(machine: &Machine, tool: &Tool) -> Result<Vec<String>> {
    match &tool.source {
        Source::Python { distribution } => Ok(vec![pip::pin(machine, distribution)?]),
        Source::Go(module) => Ok(vec![go::pin(machine, module)?]),
        Source::Consul { current } => consul::pins(machine, current),
        Source::Rustup | Source::Postgres | Source::Debian { .. } => Ok(Vec::new()),
    }
}

fn install(machine: &Machine, tool: &Tool) -> Result<Found> {
    match &tool.source {
        Source::Postgres | Source::Debian { .. } => {
            apt::install(machine, tool)?;
            present(machine, tool)?.context("the package was installed, but the program is not found")
        }
        Source::Rustup => bail!("a part of the Rust toolchain is not ours to install"),
        Source::Python { .. } | Source::Go(_) | Source::Consul { .. } => keep(machine, tool),
    }
}

/// Makes the program in a staging folder, tries it, and renames it into place.
fn keep(machine: &Machine, tool: &Tool) -> Result<Found> {
    let staging = machine.tools.join("staging").join(tool.name);
    remove_folder(&staging).context("could not empty the staging folder")?;
    create(&staging)?;
    create(&machine.bin())?;

    let pin = pins(machine, tool)?.into_iter().next().context("a kept tool has a pin")?;
    let made = staging.join(tool.program);
    let origin = match &tool.source {
        Source::Python { distribution } => pip::install(machine, tool, distribution, &staging)?,
        Source::Go(module) => go::build(machine, tool, module, &made)?,
        Source::Consul { current } => consul::make(machine, tool, current, &made)?,
        Source::Rustup | Source::Postgres | Source::Debian { .. } => bail!("{} is not kept", tool.name),
    };
    let version = version(machine, tool, &made)?;
    let path = machine.bin().join(tool.program);
    fs::rename(&made, &path).with_context(|| format!("could not put {} into place", path.display()))?;
    Stamp { pin, version: version.clone(), origin: origin.clone() }.write(machine, tool)?;
    remove_folder(&staging).context("could not remove the staging folder")?;
    Ok(Found { version, path, origin })
}

/// Asks the program for its version, which also shows that it runs here.
fn version(machine: &Machine, tool: &Tool, path: &Path) -> Result<String> {
    let answer = process::ask(machine.command(path).args(tool.version))?;
    version_in(&answer)
        .map(str::to_owned)
        .with_context(|| format!("{} does not tell its version: {}", path.display(), answer.trim()))
}

/// The first thing in a text that looks like `1.22` or `1.22.5`.
fn version_in(text: &str) -> Option<&str> {
    text.split(|c: char| !(c.is_ascii_digit() || c == '.'))
        .map(|word| word.trim_matches('.'))
        .find(|word| word.contains('.'))
}

fn lock(machine: &Machine) -> Result<File> {
    create(&machine.tools)?;
    let path = machine.tools.join("lock");
    let file = File::create(&path).with_context(|| format!("could not write {}", path.display()))?;
    if file.try_lock().is_err() {
        say("waiting for another `cargo xtask setup` to end");
        file.lock().with_context(|| format!("could not lock {}", path.display()))?;
    }
    Ok(file)
}

fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)
        .with_context(|| format!("could not create {}; CONSORT_TOOLS names another folder", folder.display()))
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
