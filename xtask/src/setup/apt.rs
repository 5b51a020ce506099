//! Debian's package client: installs packages of the machine's own release, and
//! unpacks one program of an older release.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::tool::{Source, Tool};
use crate::{
    machine::{Machine, create_folder},
    process,
};

const APT_TIMEOUT: Duration = Duration::from_mins(15);

/// Installs the package that has this tool.
pub(crate) fn install(machine: &Machine, tool: &Tool) -> Result<()> {
    let package = match &tool.source {
        Source::Debian { package } => package,
        Source::Postgres => "postgresql",
        _ => bail!("{} is not a Debian package", tool.name),
    };
    install_package(machine, package)
}

/// Installs a package as root, or by `sudo` where that needs no password.
///
/// # Errors
/// Without apt-get or the permission to use it; the message has the command to run
/// by hand.
pub(crate) fn install_package(machine: &Machine, package: &str) -> Result<()> {
    if machine.on_path("apt-get").is_none() {
        bail!("`{package}` is a Debian package, and there is no apt-get on this machine");
    }
    let log = |what: &str| machine.tools.join("logs").join(format!("apt-{what}.log"));
    // The lists may be old. A source that cannot be updated is not an error
    // yet: the package may come from another one.
    let update = process::run(as_root(machine, package)?.arg("update"), &log("update"), APT_TIMEOUT);
    let mut command = as_root(machine, package)?;
    command.args(["install", "--yes", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300", package]);
    process::run(&mut command, &log(package), APT_TIMEOUT).map_err(|error| match update {
        Ok(()) => error,
        Err(update) => error.context(update),
    })
}

fn as_root(machine: &Machine, package: &str) -> Result<Command> {
    let mut command = if process::query(machine.command("id").arg("-u"))?.trim() == "0" {
        machine.command("apt-get")
    } else if process::query(machine.command("sudo").args(["-n", "true"])).is_ok() {
        let mut sudo = machine.command("sudo");
        sudo.args(["-n", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        sudo
    } else {
        bail!("apt-get needs root, and `sudo` asks for a password: run `sudo apt-get install {package}`")
    };
    command.env("DEBIAN_FRONTEND", "noninteractive");
    Ok(command)
}

/// Unpacks a package of another Debian release into `folder`. It installs
/// nothing and needs no root: apt gets its own lists and cache, and the mirror
/// that this machine uses for its own release.
///
/// # Errors
/// When the machine has no mirror of Debian's main archive, or the mirror does
/// not have the release.
pub(crate) fn unpack(machine: &Machine, suite: &str, package: &str, folder: &Path) -> Result<()> {
    if machine.on_path("apt-get").is_none() || machine.on_path("dpkg-deb").is_none() {
        bail!("Debian's `{package}` cannot be unpacked: there is no apt-get or dpkg-deb on this machine");
    }
    let mirrors = process::query(machine.command("apt-get").args([
        "indextargets",
        "--format",
        "$(ORIGIN) $(LABEL) $(REPO_URI)",
        "Created-By: Packages",
    ]))?;
    let mirror = debian_mirror(&mirrors)
        .context("apt has no mirror of Debian's main archive; run `apt-get update` as root first")?;

    let home = folder.join("apt");
    create_folder(&home.join("lists/partial"))?;
    create_folder(&home.join("cache/archives/partial"))?;
    let sources = home.join("sources.list");
    fs::write(&sources, format!("deb {mirror} {suite} main\n")).context("could not write sources.list")?;

    let log = machine.tools.join("logs").join(format!("apt-{package}.log"));
    process::run(apt_of(machine, &home).arg("update"), &log, APT_TIMEOUT)?;
    process::run(apt_of(machine, &home).args(["download", package]), &log, APT_TIMEOUT)?;
    let archive = archive_in(&home)?;
    process::run(machine.command("dpkg-deb").arg("--extract").arg(archive).arg(folder), &log, APT_TIMEOUT)
}

/// An apt-get that uses only the sources, lists and cache under `home`.
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
    let entries = fs::read_dir(folder).context("could not read the folder of the downloaded package")?;
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
