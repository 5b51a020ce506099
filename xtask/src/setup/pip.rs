//! Native programs in Python distributions, pinned with their checksums in
//! `deploy/tools/requirements.txt`.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, bail};

use super::{apt, stamp::fingerprint, tool::Tool};
use crate::{machine::Machine, process};

const PINS: &str = "deploy/tools/requirements.txt";
const PIP_TIMEOUT: Duration = Duration::from_mins(10);

/// The fingerprint of the distribution's version and checksums.
pub(crate) fn pin(machine: &Machine, distribution: &str) -> Result<String> {
    Ok(fingerprint(&[&requirement(machine, distribution)?]))
}

/// Installs the distribution's program into `staging`; returns its origin.
///
/// # Errors
/// When Python has no pip and none can be installed, or pip fails.
pub(crate) fn install(machine: &Machine, tool: &Tool, distribution: &str, staging: &Path) -> Result<String> {
    let pins = staging.join("requirements.txt");
    fs::write(&pins, requirement(machine, distribution)?).context("could not write the requirement")?;
    let tree = staging.join("tree");

    let mut pip = command(machine)?;
    pip.arg("--target").arg(&tree).arg("--requirement").arg(&pins);
    process::run(&mut pip, &machine.tools.join("logs").join(tool.name).with_extension("log"), PIP_TIMEOUT)?;

    let program = tree.join("bin").join(tool.program);
    fs::rename(&program, staging.join(tool.program))
        .with_context(|| format!("the distribution `{distribution}` has no bin/{}", tool.program))?;
    Ok(format!("pinned in {PINS}"))
}

/// A `pip install` of pinned packages; the caller adds the target and the
/// requirements.
///
/// # Errors
/// When there is no Python with pip.
pub(crate) fn command(machine: &Machine) -> Result<Command> {
    let mut pip = machine.command(python(machine)?);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]);
    pip.args(["--no-deps", "--require-hashes", "--only-binary", ":all:"]);
    // These settings of the user conflict with `--target`.
    pip.env("PIP_USER", "0").env("PIP_REQUIRE_VIRTUALENV", "0").env("PIP_ROOT_USER_ACTION", "ignore");
    Ok(pip)
}

/// A Python that has pip; installs pip by apt-get where it is missing.
fn python(machine: &Machine) -> Result<&'static str> {
    const PYTHON: &str = "python3";
    if machine.on_path(PYTHON).is_none() {
        bail!("pip installs it, and there is no `{PYTHON}` on PATH (Debian: apt-get install python3-pip)");
    }
    let has_pip = || {
        process::query(machine.command(PYTHON).args(["-m", "pip", "--version"])).context("Python has no pip")
    };
    if has_pip().is_err() {
        apt::install_package(machine, "python3-pip")
            .context("pip installs it, and this Python has no pip")?;
        has_pip()?;
    }
    Ok(PYTHON)
}

fn requirement(machine: &Machine, distribution: &str) -> Result<String> {
    let file = machine.root.join(PINS);
    let text = fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))?;
    requirement_in(&text, distribution).with_context(|| format!("{PINS} does not pin `{distribution}`"))
}

/// One requirement of a requirements file, with its continuation lines.
fn requirement_in(text: &str, distribution: &str) -> Option<String> {
    let start = format!("{distribution}==");
    let mut found = String::new();
    for line in text.lines().skip_while(|line| !line.starts_with(&start)) {
        found.push_str(line);
        found.push('\n');
        if !line.ends_with('\\') {
            return Some(found);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requirement_ends_where_its_continuation_ends() {
        let text =
            "# why\na==1 \\\n    --hash=sha256:1 \\\n    --hash=sha256:2\nb==2 \\\n    --hash=sha256:3\n";
        let a = "a==1 \\\n    --hash=sha256:1 \\\n    --hash=sha256:2\n";
        assert_eq!(requirement_in(text, "a").as_deref(), Some(a));
        assert_eq!(requirement_in(text, "b").as_deref(), Some("b==2 \\\n    --hash=sha256:3\n"));
        assert_eq!(requirement_in(text, "c"), None);
    }
}
