//! `cargo xtask fuzz`: searches inputs that break a parser of untrusted bytes,
//! guided by coverage. The targets are the crate `fuzz`.

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context, Result, bail};

use crate::{machine::Machine, process, terminal::print_line};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The targets, named as their folders in fuzz/corpus [default: all, one after the other]
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 600, value_name = "N")]
    seconds: u32,
}

/// Compiler flags that let libFuzzer see which edges were taken and which
/// values were compared.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions=on \
     -Coverflow-checks=on";
/// An explicit target, so that [`FLAGS`] do not apply to build scripts and
/// procedural macros.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Runs the targets; fails when an input breaks one, and names the input's
/// folder.
///
/// # Errors
/// When the program cannot be built or started, or there is no such target.
pub(crate) fn run(machine: &Machine, arguments: &Arguments) -> Result<ExitCode> {
    let corpus = machine.root.join("fuzz/corpus");
    let targets =
        if arguments.targets.is_empty() { target_names(&corpus)? } else { arguments.targets.clone() };
    let known = target_names(&corpus)?;
    if let Some(unknown) = targets.iter().find(|target| !known.contains(target)) {
        bail!("there is no target `{unknown}`; the targets are {}", known.join(", "));
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
    // LTO would take longer than the search, and a backtrace needs symbols.
    cargo.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_STRIP", "none");
    let status = cargo.status().with_context(|| format!("could not start `{}`", process::show(&cargo)))?;
    if !status.success() {
        bail!("the fuzz targets could not be built ({status})");
    }
    let mut broken = Vec::new();
    for target in &targets {
        print_line(format_args!("{target}: {} s", arguments.seconds));
        // New inputs are kept for the next run, outside the source tree.
        let (grown_corpus, crashes) = (built.join("corpus").join(target), built.join("found").join(target));
        for folder in [&grown_corpus, &crashes] {
            fs::create_dir_all(folder).with_context(|| format!("could not create {}", folder.display()))?;
        }
        let mut fuzzer = machine.command(built.join(TARGET).join("release/fuzz"));
        fuzzer.env("FUZZ_TARGET", target).env("FUZZ_CORPUS", &grown_corpus).arg(&grown_corpus);
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
            broken.push(format!("{target} ({}/)", crashes.display()));
        }
    }
    if broken.is_empty() {
        print_line(format_args!("{} targets, no input broke one", targets.len()));
        return Ok(ExitCode::SUCCESS);
    }
    print_line(format_args!("broken by an input (in these folders): {}", broken.join(", ")));
    Ok(ExitCode::FAILURE)
}

fn target_names(folder: &Path) -> Result<Vec<String>> {
    let mut target_names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("could not read {}", folder.display()))? {
        target_names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    target_names.sort();
    Ok(target_names)
}
