//! Go programs, each pinned by its own `go.mod`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{
    stamp::fingerprint,
    tool::{Module, Tool},
};
use crate::{machine::Machine, process};

/// Consul takes five minutes on two idle cores; this is six times that.
const BUILD_TIMEOUT: Duration = Duration::from_mins(30);

/// Flags for a build without paths and without a version-control stamp.
const FLAGS: [&str; 2] = ["-trimpath", "-buildvcs=false"];

/// The fingerprint of both module files, the folder's own code and the flags.
pub(crate) fn pin(machine: &Machine, module: &Module) -> Result<String> {
    let read = |name: &str| {
        let file = machine.root.join(module.folder).join(name);
        fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))
    };
    let (requirements, sums) = (read("go.mod")?, read("go.sum")?);
    let (flags, sources) = (FLAGS.join(" "), sources(&machine.root.join(module.folder))?);
    let mut parts = vec![requirements.as_str(), &sums, module.package, &flags];
    parts.extend(sources.iter().map(String::as_str));
    Ok(fingerprint(&parts))
}

/// The Go files of the module's own folder, in the order of their names.
fn sources(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("could not read {}", folder.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "go"));
    files.sort();
    let read = |file: PathBuf| {
        fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))
    };
    files.into_iter().map(read).collect()
}

/// True when `go` is on PATH.
pub(crate) fn is_installed(machine: &Machine) -> bool {
    machine.on_path("go").is_some()
}

/// Builds the module's program as the file `built`; returns its origin.
///
/// # Errors
/// When there is no Go, or it fails; the message has its last lines.
pub(crate) fn build(machine: &Machine, tool: &Tool, module: &Module, built: &Path) -> Result<String> {
    let requirements = fs::read_to_string(machine.root.join(module.folder).join("go.mod"))?;
    let version = required(&requirements, module.path)
        .with_context(|| format!("{}/go.mod does not require {}", module.folder, module.path))?;

    let flags = format!("-ldflags=-s -w -X main.version={version}");
    compile(machine, module.folder, module.package, &flags, built, tool.name)?;
    Ok(format!("built from {}/go.mod", module.folder))
}

/// Builds a package in the module of that folder as the file `built`, or reuses
/// it from Go's cache. The log's name is `name`.
///
/// # Errors
/// When there is no Go, or it fails; the message has its last lines.
pub(crate) fn compile(
    machine: &Machine,
    folder: &str,
    package: &str,
    flags: &str,
    built: &Path,
    name: &str,
) -> Result<()> {
    if !is_installed(machine) {
        bail!(
            "building it needs Go, and there is no `go` on PATH: install Go (the version in {folder}/go.mod or newer)"
        );
    }
    let mut go = machine.command("go");
    go.arg("build").args(FLAGS).arg(flags).arg("-o").arg(built).arg(package);
    go.current_dir(machine.root.join(folder));
    go.env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=readonly").env("GOWORK", "off");
    process::run(&mut go, &machine.tools.join("logs").join(name).with_extension("log"), BUILD_TIMEOUT)
}

/// The version of a module in the text of a `go.mod`.
fn required<'a>(requirements: &'a str, module: &str) -> Option<&'a str> {
    requirements.lines().find_map(|line| {
        let mut words = line.trim().trim_start_matches("require ").split_whitespace();
        (words.next() == Some(module)).then(|| words.next())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_from_the_requirement() {
        let text =
            "module x\n\ntool example.org/a/cmd/a\n\nrequire (\n\texample.org/a v1.9.4 // indirect\n)\n";
        assert_eq!(required(text, "example.org/a"), Some("v1.9.4"));
        assert_eq!(required("require example.org/b v2.0.0\n", "example.org/b"), Some("v2.0.0"));
        assert_eq!(required(text, "example.org/a/cmd"), None);
    }
}
