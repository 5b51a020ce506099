//! The note beside a kept tool: by which pin it was installed.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use super::{create, tool::Tool};
use crate::machine::Machine;

/// What is known of a kept tool without running it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The fingerprint of everything that the installation followed from.
    pub(crate) pin: String,
    pub(crate) version: String,
    /// Where it came from, in words.
    pub(crate) origin: String,
}

impl Stamp {
    /// The stamp of a tool; `None` when it was never installed whole.
    pub(crate) fn read(machine: &Machine, tool: &Tool) -> Option<Self> {
        let text = fs::read_to_string(file(machine, tool)).ok()?;
        let mut lines = text.lines().map(str::to_owned);
        Some(Self { pin: lines.next()?, version: lines.next()?, origin: lines.next()? })
    }

    /// Writes the stamp, whole or not at all.
    pub(crate) fn write(&self, machine: &Machine, tool: &Tool) -> Result<()> {
        create(&machine.tools.join("stamps"))?;
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

/// A fingerprint that is the same on every machine and for every Rust (FNV-1a;
/// it guards against stale tools, not against attackers: Go's and pip's own
/// checksums do that).
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
    fn a_fingerprint_tells_parts_apart_and_never_changes() {
        assert_eq!(fingerprint(&["go.mod", "go.sum"]), fingerprint(&["go.mod", "go.sum"]));
        assert_ne!(fingerprint(&["ab", "c"]), fingerprint(&["a", "bc"]));
        assert_eq!(fingerprint(&[]), "cbf29ce484222325");
    }
}
