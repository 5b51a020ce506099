//! `cargo xtask bench`: the cost of a call on this channel and on tonic's, and
//! of durable writes with and without a pool of connections alone.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{
    machine::Machine,
    process,
    setup::{self, ToolName},
    terminal::print_line,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Count instructions with callgrind instead of measuring time: the gate
    #[arg(long)]
    instructions: bool,
    /// Measure durable units of work and whole orders instead of calls
    #[arg(long, conflicts_with = "instructions")]
    writes: bool,
    /// Measure new orders on databases that hold COUNT older ones, beside empty
    /// databases [default: a million]
    #[arg(long, conflicts_with_all = ["instructions", "writes"], value_name = "COUNT")]
    #[arg(num_args = 0..=1, default_missing_value = "1000000")]
    stored: Option<u32>,
    /// Rounds to measure; the result is the median of their ratios
    #[arg(long, default_value_t = 9, value_name = "N")]
    rounds: usize,
    /// The ratio to tonic's channel above which the gate fails
    #[arg(long, default_value_t = 0.72, value_name = "RATIO", long = "most")]
    max_ratio: f64,
}

/// Instances that the channel balances over.
const SERVERS: usize = 4;
/// Concurrent callers while instructions are counted.
const CALLERS: usize = 64;
/// Calls of the short and the long run; the difference of the two excludes the
/// cost of the start.
const CALLS: (u64, u64) = (1_280, 14_080);
/// Seconds of one round of writes with each variant.
const WRITE_ROUND_SECONDS: &str = "3";
const RUN_TIMEOUT: Duration = Duration::from_mins(10);
/// Most of this time is spent on storing the older orders.
const STORED_ORDERS_TIMEOUT: Duration = Duration::from_mins(30);
/// Long enough for a first release build of all dependencies.
const BUILD_TIMEOUT: Duration = Duration::from_mins(45);

/// Runs the benchmark that the arguments select.
///
/// # Errors
/// When something cannot be built or run, or the gate is missed.
pub(crate) fn run(machine: &Machine, arguments: &Arguments) -> Result<()> {
    let folder = machine.root.join("target/bench");
    fs::create_dir_all(&folder).context("could not create target/bench")?;
    if arguments.writes {
        return writes(machine, &folder, arguments.rounds);
    }
    if let Some(count) = arguments.stored {
        return stored(machine, &folder, count, arguments.rounds);
    }
    let program = build(machine, "registry-client", "client")?;
    let servers = Servers::start(&program)?;
    if arguments.instructions {
        setup::ensure(machine, &[ToolName::Valgrind])?;
        instructions(&program, &servers, &folder, arguments.max_ratio)
    } else {
        let mut compare = Command::new("taskset");
        compare.args(["-c", "0"]).arg(&program).args(["compare", &arguments.rounds.to_string()]);
        let log = folder.join("compare.log");
        let table = process::read(compare.args(&servers.ports), &log, RUN_TIMEOUT)?;
        fs::write(folder.join("compare.md"), &table).context("could not write target/bench/compare.md")?;
        print_line(table.trim_end());
        Ok(())
    }
}

/// Measures units of work on both databases, then whole orders; each beside a
/// plain pool.
fn writes(machine: &Machine, folder: &Path, rounds: usize) -> Result<()> {
    setup::ensure(machine, &[ToolName::Postgres])?;
    let rounds = rounds.to_string();
    let mut tables = String::new();
    for (package, bench) in [("service-kit", "writes"), ("order-service", "orders")] {
        let program = build(machine, package, bench)?;
        let mut measurement = machine.command(program);
        let log = folder.join(format!("{bench}.log"));
        let table =
            process::read(measurement.args([rounds.as_str(), WRITE_ROUND_SECONDS]), &log, RUN_TIMEOUT)?;
        print_line(table.trim_end());
        tables += &table;
    }
    fs::write(folder.join("writes.md"), &tables).context("could not write target/bench/writes.md")
}

/// Measures orders on empty databases and on databases that hold `count`
/// orders.
fn stored(machine: &Machine, folder: &Path, count: u32, rounds: usize) -> Result<()> {
    setup::ensure(machine, &[ToolName::Postgres])?;
    let program = build(machine, "order-service", "orders")?;
    let mut measurement = machine.command(program);
    measurement.args(["stored", &count.to_string(), &rounds.to_string(), WRITE_ROUND_SECONDS]);
    let table = process::read(&mut measurement, &folder.join("stored.log"), STORED_ORDERS_TIMEOUT)?;
    print_line(table.trim_end());
    fs::write(folder.join("stored.md"), &table).context("could not write target/bench/stored.md")
}

/// Builds a benchmark and returns the program's path.
fn build(machine: &Machine, package: &str, bench: &str) -> Result<PathBuf> {
    print_line(format_args!("building the benchmark `{bench}` (release profile)"));
    let mut cargo = Command::new("cargo");
    cargo.current_dir(&machine.root).args(["bench", "--locked", "-p", package, "--bench", bench, "--no-run"]);
    let output = process::read(&mut cargo, &machine.root.join("target/bench/build.log"), BUILD_TIMEOUT)?;
    let path = output
        .lines()
        .filter(|line| line.contains("Executable"))
        .find_map(|line| line.rsplit_once('(')?.1.strip_suffix(')'));
    let path = path.ok_or_else(|| anyhow!("cargo did not print the path of the benchmark:\n{output}"))?;
    Ok(machine.root.join(path))
}

/// Echo servers in a process of their own.
struct Servers {
    child: Child,
    ports: Vec<String>,
}

impl Servers {
    /// Starts tonic servers on the second core.
    fn start(program: &Path) -> Result<Self> {
        let mut command = Command::new("taskset");
        command.args(["-c", "1"]).arg(program).args(["serve", "tonic", &SERVERS.to_string()]);
        Self::spawn(command, SERVERS)
    }

    fn spawn(mut command: Command, count: usize) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("could not start `{}`", process::show(&command)))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).context("could not read the servers' ports")?;
        }
        let ports: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        if ports.len() != count {
            bail!("the echo servers did not start");
        }
        Ok(Self { child, ports })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // They end at the end of their input; the kill is a fallback.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn instructions(program: &Path, servers: &Servers, folder: &Path, max_ratio: f64) -> Result<()> {
    let tonic = per_call(program, "tonic", servers, folder)?;
    let ours = per_call(program, "consort", servers, folder)?;
    let ratio = ours as f64 / tonic as f64;
    print_line(format_args!("instructions per unary call of 100 bytes, {CALLERS} callers, user space:"));
    print_line(format_args!("  tonic Channel, 1 endpoint                                {tonic}"));
    print_line(format_args!("  consort Channel, {SERVERS} instances, least_request, deadline   {ours}"));
    print_line(format_args!("instructions ratio {ratio:.3}"));
    let [tonic, ours] = ["tonic", "consort"].map(|kind| served_call(program, kind, folder));
    let (tonic, ours) = (tonic?, ours?);
    print_line("the same, of the server:");
    print_line(format_args!("  tonic Server                                             {tonic}"));
    print_line(format_args!("  consort Server, admission, shares, deadlines, gzip       {ours}"));
    print_line(format_args!("instructions ratio {:.3}", ours as f64 / tonic as f64));
    // Compared as printed, so that the line and the result agree.
    if (ratio * 1000.0).round() / 1000.0 > max_ratio {
        bail!(
            "the ratio is above the gate of {max_ratio:.3}; `callgrind_annotate target/bench/consort.long` shows the cost of each function"
        );
    }
    Ok(())
}

fn per_call(program: &Path, variant: &str, servers: &Servers, folder: &Path) -> Result<u64> {
    let short = count(program, variant, CALLS.0, servers, &folder.join(format!("{variant}.short")))?;
    let long = count(program, variant, CALLS.1, servers, &folder.join(format!("{variant}.long")))?;
    Ok(long.saturating_sub(short) / (CALLS.1 - CALLS.0))
}

/// Instructions per call of a server of the kind `kind`.
fn served_call(program: &Path, kind: &str, folder: &Path) -> Result<u64> {
    let count = |calls: u64, name: &str| {
        let out = folder.join(format!("server.{kind}.{name}"));
        let mut valgrind = callgrind(program, &out);
        let log = fs::File::create(out.with_extension("log")).context("could not make the log")?;
        valgrind.args(["serve", kind, "1"]).stderr(log);
        let mut servers = Servers::spawn(valgrind, 1)?;
        let mut client = Command::new(program);
        client.args(["calls", "tonic", &calls.to_string(), &CALLERS.to_string()]).args(&servers.ports);
        process::run(&mut client, &out.with_extension("client.log"), RUN_TIMEOUT)?;
        // It ends at the end of its input; then callgrind writes its file.
        drop(servers.child.stdin.take());
        servers.child.wait().context("could not wait for the server")?;
        total(&out)
    };
    let (short, long) = (count(CALLS.0, "short")?, count(CALLS.1, "long")?);
    Ok(long.saturating_sub(short) / (CALLS.1 - CALLS.0))
}

fn callgrind(program: &Path, out: &Path) -> Command {
    let mut valgrind = Command::new("valgrind");
    valgrind.arg("--tool=callgrind").arg(format!("--callgrind-out-file={}", out.display())).arg(program);
    valgrind
}

/// Instructions of one run of a client.
fn count(program: &Path, variant: &str, calls: u64, servers: &Servers, out: &Path) -> Result<u64> {
    let mut valgrind = callgrind(program, out);
    valgrind.args(["calls", variant, &calls.to_string(), &CALLERS.to_string()]).args(&servers.ports);
    process::run(&mut valgrind, &out.with_extension("log"), RUN_TIMEOUT)?;
    total(out)
}

/// The total in a file of callgrind.
fn total(out: &Path) -> Result<u64> {
    let text = fs::read_to_string(out).with_context(|| format!("could not read {}", out.display()))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    total
        .and_then(|total| total.trim().parse().ok())
        .ok_or_else(|| anyhow!("{} has no totals", out.display()))
}
