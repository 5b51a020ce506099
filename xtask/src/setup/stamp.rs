//! The stamp of a kept tool: the pin by which it was installed.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use super::tool::Tool;
use crate::machine::{Machine, create_folder};

/// The pin, version and origin of a kept tool.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The fingerprint of every input of the installation.
    pub(crate) pin: String,
    pub(crate) version: String,
    /// The source of the program, for people.
    pub(crate) origin: String,
}

impl Stamp {
    /// The stamp of a tool; `None` when no installation was completed.
    pub(crate) fn read(machine: &Machine, tool: &Tool) -> Option<Self> {
        let text = fs::read_to_string(file(machine, tool)).ok()?;
        let mut lines = text.lines().map(str::to_owned);
        Some(Self { pin: lines.next()?, version: lines.next()?, origin: lines.next()? })
    }

    /// Writes the stamp atomically.
    pub(crate) fn write(&self, machine: &Machine, tool: &Tool) -> Result<()> {
        create_folder(&machine.tools.join("stamps"))?;
        let file = file(machine, tool);
        let draft = file.with_extension("draft");
        fs::write(&draft, format!("{}\n{}\n{}\n", self.pin, self.version, self.origin))
            .and_then(|()| fs::rename(&draft, &file))
            .with_context(|| format!("could not write {}", file.display()))
    }
}

fn file(machine: &Machine, tool: &Tool) -> PathBuf {
    machine.tools.join("stamps").join(tool.name)
}

/// A fingerprint that is the same on every machine and with every Rust version
/// (FNV-1a). It detects stale tools; the checksums of Go and pip protect
/// against attackers.
pub(crate) fn fingerprint(parts: &[&str]) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts.iter().flat_map(|part| part.bytes().chain([0])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_separates_parts_and_never_changes() {
        assert_eq!(fingerprint(&["go.mod", "go.sum"]), fingerprint(&["go.mod", "go.sum"]));
        assert_ne!(fingerprint(&["ab", "c"]), fingerprint(&["a", "bc"]));
        assert_eq!(fingerprint(&[]), "cbf29ce484222325");
    }
}
