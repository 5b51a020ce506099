//! Memory, processor time and core affinity of processes.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use rustix::{
    param::clock_ticks_per_second,
    process::{Pid, getpid},
    thread::{CpuSet, sched_setaffinity},
};

/// Binds all threads of a process, by default this one, to one core.
///
/// # Errors
/// When the process is gone, or there is no such core.
pub(crate) fn pin(process: Option<Pid>, core: usize) -> Result<()> {
    let process = process.unwrap_or_else(getpid);
    let mut cpu = CpuSet::new();
    cpu.set(core);
    let tasks = format!("/proc/{}/task", process.as_raw_nonzero());
    // Twice, for threads that unbound threads started during the first pass.
    for _ in 0..2 {
        for task in fs::read_dir(&tasks).with_context(|| format!("could not read {tasks}"))? {
            let thread = task?.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw);
            let result = sched_setaffinity(thread, &cpu);
            result.with_context(|| format!("could not bind a thread to core {core}"))?;
        }
    }
    Ok(())
}

/// The processor time that a process, by default this one, has used.
///
/// # Errors
/// When the process is gone.
pub(crate) fn time_used(process: Option<Pid>) -> Result<Duration> {
    let file = format!("/proc/{}/stat", process.unwrap_or_else(getpid).as_raw_nonzero());
    let text = fs::read_to_string(&file).with_context(|| format!("could not read {file}"))?;
    // After the name, which may hold anything: the 12th and 13th field.
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks = fields.skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>();
    let ticks = ticks.with_context(|| format!("{file} cannot be read"))?;
    Ok(Duration::from_millis(ticks * 1_000 / clock_ticks_per_second()))
}

/// The proportional set size of a process in KiB.
pub(crate) fn memory(pid: Pid) -> Result<usize> {
    let file = format!("/proc/{}/smaps_rollup", pid.as_raw_nonzero());
    let text = fs::read_to_string(&file).with_context(|| format!("could not read {file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
