//! Fuzz targets: the parsers of untrusted bytes. No input makes one panic or
//! break the promise that its target checks.
//!
//! `cargo xtask fuzz [TARGET…] [--seconds N]` searches inputs that break one,
//! guided by coverage; `cargo nextest run -p fuzz` tries the inputs in `corpus/`
//! and some thousand mutations of each, without a special build.

use std::{fs, io, path::Path};

/// A target: its name, which is also its folder in `corpus/`, and the function
/// to run on an input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 11] = [
    ("consul_health", registry_client::fuzzing::consul_health),
    ("filter", consul_dev::fuzzing::filter),
    ("framing", registry_client::fuzzing::framing),
    ("grpc_timeout", registry_client::fuzzing::grpc_timeout),
    ("http2_head", registry_client::fuzzing::http2_head),
    ("page_token", service_kit::fuzzing::page_token),
    ("path", consul_dev::fuzzing::path),
    ("registration", consul_dev::fuzzing::registration),
    ("service_config", registry_client::fuzzing::service_config),
    ("snapshot", registry_client::fuzzing::snapshot),
    ("token", service_kit::fuzzing::token),
];

/// The function of the target of that name.
///
/// # Panics
/// When there is no target of that name.
#[must_use]
pub fn target(name: &str) -> fn(&[u8]) {
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("there is no target `{name}`")).1
}

/// The first inputs of the target of that name, from `corpus/`. A file that
/// ends in `.hex` is written in hexadecimal digits.
///
/// # Errors
/// When a file cannot be read.
pub fn corpus(name: &str) -> io::Result<Vec<Vec<u8>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    files.sort();
    files.iter().map(|file| read(file)).collect()
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let bytes = fs::read(file)?;
    if file.extension().is_none_or(|extension| extension != "hex") {
        return Ok(bytes);
    }
    let mut digits = bytes.iter().filter_map(|byte| char::from(*byte).to_digit(16));
    let byte = || Some(u8::try_from(digits.next()? << 4 | digits.next()?).unwrap_or_default());
    Ok(std::iter::from_fn(byte).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mutations of all inputs of a target together.
    const MUTATIONS: usize = 20_000;
    /// Parts of the formats, which mutations insert.
    const FRAGMENTS: [&[u8]; 16] = [
        b"{}",
        b"[]",
        b"\"",
        b"\\",
        b":",
        b",",
        b"null",
        b"-1",
        b"0",
        b"99999999999999999999",
        b"1e999",
        b"\xff",
        b"\0",
        b"%",
        b" and ",
        b"not (",
    ];

    /// Mutates an input in the ways of libFuzzer, without its feedback.
    fn mutate(input: &[u8], other: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(..=bytes.len());
            let end = random.usize(at..=bytes.len());
            match random.u8(..7) {
                0 if at < bytes.len() => bytes[at] = random.u8(..),
                1 if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
                2 => drop(bytes.splice(at..end, [])),
                3 => drop(bytes.splice(at..at, FRAGMENTS[random.usize(..FRAGMENTS.len())].iter().copied())),
                4 => drop(bytes.splice(at..end, FRAGMENTS[random.usize(..FRAGMENTS.len())].iter().copied())),
                5 => bytes.extend_from_within(at..end),
                _ => {
                    let from = random.usize(..=other.len());
                    bytes.splice(at..end, other[from..random.usize(from..=other.len())].iter().copied());
                }
            }
            bytes.truncate(1 << 16);
        }
        bytes
    }

    #[test]
    fn no_input_and_no_mutation_of_one_breaks_a_promise() {
        let mut random = fastrand::Rng::with_seed(0x5eed);
        for (name, target) in TARGETS {
            let corpus = corpus(name).unwrap();
            assert!(corpus.len() > 1, "{name} has too few inputs");
            for input in &corpus {
                target(input);
                for _ in 0..MUTATIONS / corpus.len() {
                    let other = &corpus[random.usize(..corpus.len())];
                    target(&mutate(input, other, &mut random));
                }
            }
        }
    }
}
