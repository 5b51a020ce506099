//! A current Consul, built by Go; where there is no Go, Debian's old one,
//! with which the mesh stays compatible.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::{
    apt, go,
    stamp::fingerprint,
    tool::{Module, Tool},
};
use crate::{machine::Machine, say};

/// The last of Debian's releases that has a Consul.
const SUITE: &str = "bullseye";

/// The pins that hold. A Consul that Go once built stays good when Go is gone;
/// Debian's gives way as soon as there is a Go.
pub(crate) fn pins(machine: &Machine, current: &Module) -> Result<Vec<String>> {
    let built = go::pin(machine, current)?;
    let unpacked = fingerprint(&["Debian", SUITE, "consul"]);
    Ok(if go::is_installed(machine) { vec![built] } else { vec![unpacked, built] })
}

/// Makes the program as the file `made`; says where it came from.
///
/// # Errors
/// When Go fails, or there is neither Go nor Debian's package client.
pub(crate) fn make(machine: &Machine, tool: &Tool, current: &Module, made: &Path) -> Result<String> {
    if go::is_installed(machine) {
        return go::build(machine, tool, current, made);
    }
    say(format_args!("{:<14} there is no Go to build a current one: taking Debian's", tool.name));
    let folder = made.with_extension("unpacked");
    apt::unpack(machine, SUITE, "consul", &folder).context("without Go, Debian's package is all there is")?;
    fs::rename(folder.join("usr/bin/consul"), made).context("Debian's package has no usr/bin/consul")?;
    Ok(format!("Debian's package of {SUITE}; no Go to build a current one"))
}
