//! `cargo xtask fuzz`: looks for inputs that break a promise of what reads bytes
//! that others wrote, guided by coverage. The targets are the crate `fuzz`.

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context, Result, bail};

use crate::{machine::Machine, process, say};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The targets, named as their folders in fuzz/corpus [default: all, one after the other]
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// How long each is tried, in seconds
    #[arg(long, default_value_t = 600, value_name = "N")]
    seconds: u32,
}

/// What libFuzzer needs to see of a program: which edges were taken, and what
/// was compared with what.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions=on \
     -Coverflow-checks=on";
/// With a target of its own, programs of the build itself are left alone.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The command itself: fails when a promise is broken, and says by which file.
///
/// # Errors
/// When the program cannot be built or started, or there is no such target.
pub(crate) fn run(machine: &Machine, arguments: &Arguments) -> Result<ExitCode> {
    let corpus = machine.root.join("fuzz/corpus");
    let targets = if arguments.targets.is_empty() { names(&corpus)? } else { arguments.targets.clone() };
    let known = names(&corpus)?;
    if let Some(unknown) = targets.iter().find(|target| !known.contains(target)) {
        bail!("there is no target `{unknown}`; there are {}", known.join(", "));
    }
    let built = machine.root.join("target/fuzz");
    let mut cargo = machine.command("cargo");
    cargo.args([
        "build",
        "--locked",
        "--release",
        "-p",
        "fuzz",
        "--features",
        "libfuzzer",
        "--target",
        TARGET,
    ]);
    cargo.arg("--target-dir").arg(&built).env("RUSTFLAGS", FLAGS);
    // Its link would take longer than the search, and a backtrace has names.
    cargo.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_STRIP", "none");
    let status = cargo.status().with_context(|| format!("could not start `{}`", process::show(&cargo)))?;
    if !status.success() {
        bail!("the fuzz targets could not be built ({status})");
    }
    let mut found = Vec::new();
    for target in &targets {
        say(format_args!("{target}: {} s", arguments.seconds));
        // What is found on the way is kept for the next time, outside the tree.
        let (grown, crashes) = (built.join("corpus").join(target), built.join("found").join(target));
        for folder in [&grown, &crashes] {
            fs::create_dir_all(folder).with_context(|| format!("could not create {}", folder.display()))?;
        }
        let mut fuzzer = machine.command(built.join(TARGET).join("release/fuzz"));
        fuzzer.env("FUZZ_TARGET", target).env("FUZZ_CORPUS", &grown).arg(&grown);
        fuzzer.arg(format!("-max_total_time={}", arguments.seconds));
        fuzzer.args([
            "-timeout=5",
            "-rss_limit_mb=1024",
            "-max_len=65536",
            "-print_final_stats=1",
            "-verbosity=0",
        ]);
        fuzzer.arg(format!("-artifact_prefix={}/", crashes.display()));
        let status =
            fuzzer.status().with_context(|| format!("could not start `{}`", process::show(&fuzzer)))?;
        if !status.success() {
            found.push(format!("{target} ({}/)", crashes.display()));
        }
    }
    if found.is_empty() {
        say(format_args!("{} targets, nothing found", targets.len()));
        return Ok(ExitCode::SUCCESS);
    }
    say(format_args!("broken by an input: {}", found.join(", ")));
    Ok(ExitCode::FAILURE)
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("could not read {}", folder.display()))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
