//! A current Consul, built by Go; without Go, Debian's older one, which the
//! mesh supports too.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::{
    apt, go,
    stamp::fingerprint,
    tool::{Module, Tool},
};
use crate::{machine::Machine, terminal::print_line};

/// The last Debian release that has a Consul.
const SUITE: &str = "bullseye";

/// The valid pins. A Consul that Go built stays valid without Go; Debian's is
/// replaced once there is a Go.
pub(crate) fn pins(machine: &Machine, current: &Module) -> Result<Vec<String>> {
    let built = go::pin(machine, current)?;
    let unpacked = fingerprint(&["Debian", SUITE, "consul"]);
    Ok(if go::is_installed(machine) { vec![built] } else { vec![unpacked, built] })
}

/// Installs the program as the file `built`; returns its origin.
///
/// # Errors
/// When Go fails, or there is neither Go nor Debian's package client.
pub(crate) fn build(machine: &Machine, tool: &Tool, current: &Module, built: &Path) -> Result<String> {
    if go::is_installed(machine) {
        return go::build(machine, tool, current, built);
    }
    print_line(format_args!("{:<14} there is no Go to build a current one: using Debian's", tool.name));
    let folder = built.with_extension("unpacked");
    apt::unpack(machine, SUITE, "consul", &folder)
        .context("without Go, Debian's package is the only source")?;
    fs::rename(folder.join("usr/bin/consul"), built).context("Debian's package has no usr/bin/consul")?;
    Ok(format!("Debian's package of {SUITE}; no Go to build a current one"))
}
