//! Runs scenarios one after the other and sums them up.

use std::{fs, path::PathBuf, time::Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{
    cli::RunArgs,
    scenario::{ALL, Scenario},
    setting::{ScenarioSetting, ServerKind},
    terminal::print_line,
    verdict::ScenarioOutcome,
};

/// One run of one scenario, in the output of `--json`.
#[derive(Debug, Serialize)]
struct Run {
    id: &'static str,
    run: u32,
    off: Option<&'static str>,
    held: bool,
    seconds: f64,
    outcome: Option<ScenarioOutcome>,
    /// The error that ended it early.
    error: Option<String>,
}

/// The output of `--json`.
#[derive(Debug, Serialize)]
struct Results<'a> {
    date: String,
    machine: String,
    size: String,
    passed: usize,
    failed: usize,
    runs: &'a [Run],
}

/// Runs the chosen scenarios; returns whether all figures held.
///
/// # Errors
/// When a scenario is not known or nothing can be written.
pub(crate) async fn run(args: &RunArgs) -> Result<bool> {
    let chosen = choose(&args.ids)?;
    if args.list {
        for scenario in chosen {
            print_line(format_args!("{:<4} {}: {}", scenario.id, scenario.fault, scenario.promise));
            print_line(format_args!("     off: {}", scenario.off));
        }
        return Ok(true);
    }
    let logs = Logs::new(args.logs.clone())?;
    print_line(format_args!("on {}; every process's log is below {}", machine(), logs.path().display()));
    let mut runs = Vec::new();
    for scenario in chosen {
        for turn in 1..=args.repeat {
            runs.push(one(scenario, turn, args, &logs).await?);
        }
    }
    let failed = sum_up(&runs, args)?;
    if failed > 0 {
        print_line(format_args!("the logs stay in {}", logs.keep().display()));
    }
    print_line(format_args!("{} passed, {failed} failed", ids(&runs).len() - failed));
    Ok(failed == 0)
}

/// Scenarios whose promise is not held yet: they run only by name.
const BY_NAME: [&str; 2] = ["R11", "R29"];

fn choose(ids: &[String]) -> Result<Vec<&'static Scenario>> {
    if ids.is_empty() {
        let (others, all): (Vec<_>, Vec<_>) = ALL.iter().partition(|scenario| BY_NAME.contains(&scenario.id));
        for scenario in others {
            print_line(format_args!(
                "{} is left out: its promise does not hold yet; run it by its name",
                scenario.id
            ));
        }
        return Ok(all);
    }
    let find = |id: &String| {
        let found = ALL.iter().find(|scenario| scenario.id.eq_ignore_ascii_case(id));
        found.with_context(|| format!("there is no scenario `{id}`; --list shows all"))
    };
    ids.iter().map(find).collect()
}

/// Runs a scenario once, and prints the outcome. An error counts as a failure,
/// and the other scenarios still run.
async fn one(scenario: &'static Scenario, turn: u32, args: &RunArgs, logs: &Logs) -> Result<Run> {
    let folder = logs.path().join(format!("{}-{turn}", scenario.id));
    fs::create_dir_all(&folder).with_context(|| format!("could not create {}", folder.display()))?;
    let off = args.off.then_some(scenario.off);
    let setting = ScenarioSetting {
        size: args.size,
        without: off,
        logs: folder,
        consul: args.consul.clone(),
        db: args.db,
        server_kind: ServerKind::Consort,
        grpc_go: args.grpc_go.clone(),
        attacks: args.attacks.clone(),
    };
    let without = off.map(|off| format!(" without {off}")).unwrap_or_default();
    print_line(format_args!("{}  {}{without}", scenario.id, scenario.fault));
    let began = Instant::now();
    let outcome = (scenario.run)(setting).await;
    let seconds = began.elapsed().as_secs_f64();
    let mut run = Run { id: scenario.id, run: turn, off, held: false, seconds, outcome: None, error: None };
    match outcome {
        Ok(outcome) => {
            print_line(outcome.text().trim_end());
            run.held = outcome.held();
            run.outcome = Some(outcome);
        }
        Err(error) => {
            print_line(format_args!("    MISSED {error:#}"));
            run.error = Some(format!("{error:#}"));
        }
    }
    let verdict = if run.held { "held" } else { "MISSED" };
    print_line(format_args!("    {verdict} in {seconds:.0} s"));
    Ok(run)
}

/// Prints the table and writes the results; returns the number of missed
/// scenarios.
fn sum_up(runs: &[Run], args: &RunArgs) -> Result<usize> {
    print_line(
        "\n| # | fault | failed calls | time to detect | time to recover | attempts per call | verdict |",
    );
    print_line("|---|---|---|---|---|---|---|");
    for run in runs {
        let off = run.off.map(|off| format!(" without {off}")).unwrap_or_default();
        let row = match (&run.outcome, &run.error) {
            (Some(outcome), _) => outcome.row(),
            (None, error) => format!("– | – | – | – | – | {}", error.as_deref().unwrap_or("not run")),
        };
        print_line(format_args!("| {}{off} | {row} |", run.id));
    }
    let all = ids(runs);
    let missed = |id: &str| runs.iter().any(|run| run.id == id && !run.held);
    let failed = all.iter().copied().filter(|id| missed(id)).count();
    if let Some(file) = &args.json {
        let results = Results {
            date: time::OffsetDateTime::now_utc().date().to_string(),
            machine: machine(),
            size: format!("{:?}", args.size).to_lowercase(),
            passed: all.len() - failed,
            failed,
            runs,
        };
        let text = serde_json::to_string_pretty(&results).context("could not write the results")?;
        fs::write(file, text).with_context(|| format!("could not write {}", file.display()))?;
    }
    Ok(failed)
}

/// The scenarios of these runs, each once.
fn ids(runs: &[Run]) -> Vec<&'static str> {
    let mut ids: Vec<_> = runs.iter().map(|run| run.id).collect();
    ids.dedup();
    ids
}

/// The properties of this machine that figures depend on.
fn machine() -> String {
    let cpu = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let profile = if cfg!(debug_assertions) { "dev profile" } else { "release profile" };
    format!("{cpu} cores, Linux {}, load {load} at the start, {profile}", kernel.trim())
}

/// The folder of the logs: a given one, or a temporary one that is removed at
/// the end unless it is kept.
struct Logs {
    path: PathBuf,
    temporary: Option<tempfile::TempDir>,
}

impl Logs {
    fn new(named: Option<PathBuf>) -> Result<Self> {
        if let Some(path) = named {
            fs::create_dir_all(&path).with_context(|| format!("could not create {}", path.display()))?;
            let path = std::path::absolute(&path).context("could not resolve the path of the logs")?;
            return Ok(Self { path, temporary: None });
        }
        let temporary = tempfile::Builder::new().prefix("chaos-").tempdir();
        let temporary = temporary.context("could not create a folder for the logs")?;
        Ok(Self { path: temporary.path().to_owned(), temporary: Some(temporary) })
    }

    fn path(&self) -> &std::path::Path {
        &self.path
    }

    fn keep(self) -> PathBuf {
        if let Some(temporary) = self.temporary {
            let _ = temporary.keep();
        }
        self.path
    }
}
