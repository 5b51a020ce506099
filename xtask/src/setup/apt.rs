//! Debian's package client: packages of the machine's own release, installed,
//! and one program of an older release, only unpacked.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{
    create,
    tool::{Source, Tool},
};
use crate::{machine::Machine, process};

const LIMIT: Duration = Duration::from_mins(15);

/// Installs the package that has this tool.
pub(crate) fn install(machine: &Machine, tool: &Tool) -> Result<()> {
    let package = match &tool.source {
        Source::Debian { package } => package,
        Source::Postgres => "postgresql",
        _ => bail!("{} is no Debian package", tool.name),
    };
    install_package(machine, package)
}

/// Installs a package as root, or through `sudo` where that needs no password.
///
/// # Errors
/// Without apt-get or the right to use it, with the command for the person to type.
pub(crate) fn install_package(machine: &Machine, package: &str) -> Result<()> {
    if machine.on_path("apt-get").is_none() {
        bail!("`{package}` is a Debian package, and there is no apt-get on this machine");
    }
    let log = |what: &str| machine.tools.join("logs").join(format!("apt-{what}.log"));
    // The lists may be old, and one broken source of the person's must not
    // stop this: whether the package can be had, the installation says.
    let update = process::run(as_root(machine, package)?.arg("update"), &log("update"), LIMIT);
    let mut command = as_root(machine, package)?;
    command.args(["install", "--yes", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300", package]);
    process::run(&mut command, &log(package), LIMIT).map_err(|error| match update {
        Ok(()) => error,
        Err(update) => error.context(update),
    })
}

fn as_root(machine: &Machine, package: &str) -> Result<Command> {
    let mut command = if process::ask(machine.command("id").arg("-u"))?.trim() == "0" {
        machine.command("apt-get")
    } else if process::ask(machine.command("sudo").args(["-n", "true"])).is_ok() {
        let mut sudo = machine.command("sudo");
        sudo.args(["-n", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        sudo
    } else {
        bail!("apt-get needs root, and `sudo` asks for a password: run `sudo apt-get install {package}`")
    };
    command.env("DEBIAN_FRONTEND", "noninteractive");
    Ok(command)
}

/// Unpacks a package of another of Debian's releases into `folder`, installing
/// nothing and needing no root: apt is given lists and a cache of its own, and
/// the mirror that this machine has for its own release.
///
/// # Errors
/// Where the machine has no such mirror, or the mirror no such release.
pub(crate) fn unpack(machine: &Machine, suite: &str, package: &str, folder: &Path) -> Result<()> {
    if machine.on_path("apt-get").is_none() || machine.on_path("dpkg-deb").is_none() {
        bail!("Debian's `{package}` cannot be unpacked: there is no apt-get or dpkg-deb on this machine");
    }
    let mirrors = process::ask(machine.command("apt-get").args([
        "indextargets",
        "--format",
        "$(ORIGIN) $(LABEL) $(REPO_URI)",
        "Created-By: Packages",
    ]))?;
    let mirror = debian_mirror(&mirrors)
        .context("apt knows no mirror of Debian's main archive; run `apt-get update` as root first")?;

    let home = folder.join("apt");
    create(&home.join("lists/partial"))?;
    create(&home.join("cache/archives/partial"))?;
    let sources = home.join("sources.list");
    fs::write(&sources, format!("deb {mirror} {suite} main\n")).context("could not write sources.list")?;

    let log = machine.tools.join("logs").join(format!("apt-{package}.log"));
    process::run(apt_of(machine, &home).arg("update"), &log, LIMIT)?;
    process::run(apt_of(machine, &home).args(["download", package]), &log, LIMIT)?;
    let archive = archive_in(&home)?;
    process::run(machine.command("dpkg-deb").arg("--extract").arg(archive).arg(folder), &log, LIMIT)
}

/// An apt-get that sees only the sources, lists and cache under `home`.
fn apt_of(machine: &Machine, home: &Path) -> Command {
    let mut command = machine.command("apt-get");
    command.current_dir(home);
    let option = |name: &str, path: PathBuf| format!("{name}={}", path.display());
    for option in [
        option("Dir::Etc::SourceList", home.join("sources.list")),
        option("Dir::Etc::SourceParts", home.join("no-parts")),
        option("Dir::State::Lists", home.join("lists")),
        option("Dir::Cache", home.join("cache")),
    ] {
        command.arg("-o").arg(option);
    }
    command
}

fn archive_in(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).context("could not look for the downloaded package")?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get downloaded no package")
}

/// The mirror of Debian's main archive among lines of origin, label and address.
fn debian_mirror(lines: &str) -> Option<&str> {
    lines.lines().find_map(|line| line.strip_prefix("Debian Debian "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_one_of_debians_main_archive() {
        let lines = "vendor tools http://vendor.test/apt/\n\
                     Debian Debian-Security http://mirror.test/debian-security/\n\
                     Debian Debian http://mirror.test/debian/\n";
        assert_eq!(debian_mirror(lines), Some("http://mirror.test/debian/"));
        assert_eq!(debian_mirror("Ubuntu Ubuntu http://mirror.test/ubuntu/\n"), None);
    }
}
