//! Child processes: each has a time limit and a log file; an error holds the
//! command and the last lines of the log.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Lines of a failed command's output that its error holds at most.
const MAX_TAIL_LINES: usize = 15;

/// The time limit of a command that prints a few lines, such as its version.
const QUERY_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs a command to its end and writes its output to `log`.
///
/// # Errors
/// When it cannot be started, fails, or takes longer than `limit` (it is then
/// killed). The message has the command and the end of its output.
pub(crate) fn run(command: &mut Command, log: &Path, limit: Duration) -> Result<()> {
    let shown = show(command);
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).with_context(|| format!("could not create {}", folder.display()))?;
    }
    let file = File::create(log).with_context(|| format!("could not write {}", log.display()))?;
    let errors = file.try_clone().context("could not share the log file")?;
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .spawn()
        .with_context(|| format!("could not start `{shown}`"))?;
    let ended = wait(&mut child, limit).with_context(|| format!("could not wait for `{shown}`"))?;
    let seconds = started.elapsed().as_secs_f64();
    let outcome = match ended {
        Some(status) if status.success() => return Ok(()),
        Some(status) => format!("failed ({status}) after {seconds:.1} s"),
        None => format!("was stopped: it took longer than {} s", limit.as_secs()),
    };
    bail!("`{shown}` {outcome}\n{}    (all of it: {})", tail(log), log.display())
}

/// Runs a command to its end as [`run`] does and returns its output.
///
/// # Errors
/// As [`run`], and when the log cannot be read.
pub(crate) fn read(command: &mut Command, log: &Path, limit: Duration) -> Result<String> {
    run(command, log, limit)?;
    fs::read_to_string(log).with_context(|| format!("could not read {}", log.display()))
}

/// Runs a command to its end and returns its output, standard error after
/// standard output. Only for commands that print a few lines, such as their
/// version: more output than the pipe's buffer looks like a hang.
///
/// # Errors
/// When it cannot be started, fails, or takes longer than [`QUERY_TIMEOUT`].
pub(crate) fn query(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start `{shown}`"))?;
    let ended = wait(&mut child, QUERY_TIMEOUT).with_context(|| format!("could not wait for `{shown}`"))?;
    let Some(status) = ended else {
        bail!("`{shown}` did not end within {} s", QUERY_TIMEOUT.as_secs());
    };
    let output = child.wait_with_output().with_context(|| format!("could not read from `{shown}`"))?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    if !status.success() {
        bail!("`{shown}` failed ({status}): {}", text.trim());
    }
    Ok(text)
}

/// The command as one would type it.
pub(crate) fn show(command: &Command) -> String {
    let quoted = |word: &std::ffi::OsStr| {
        let word = word.to_string_lossy();
        if word.contains([' ', '*', '$', '"', '(']) { format!("'{word}'") } else { word.into_owned() }
    };
    [command.get_program()].into_iter().chain(command.get_args()).map(quoted).collect::<Vec<_>>().join(" ")
}

fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn tail(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(MAX_TAIL_LINES)..].iter().map(|line| format!("    | {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_failure_names_the_command_its_status_and_its_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("logs/x.log");
        let script = "for i in $(seq 40); do echo line $i; done; echo no space left >&2; exit 3";
        let error = run(&mut shell(script), &log, Duration::from_secs(20)).unwrap_err().to_string();
        assert!(error.contains("sh -c 'for i"), "{error}");
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.contains("| no space left"), "{error}");
        assert!(error.contains("| line 40") && !error.contains("| line 1\n"), "{error}");
    }

    #[test]
    fn a_command_that_does_not_end_is_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let limit = Duration::from_millis(100);
        let mut command = Command::new("sleep");
        let error = run(command.arg("60"), &folder.path().join("log"), limit).unwrap_err().to_string();
        assert!(error.contains("`sleep 60` was stopped"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = query(&mut Command::new("no-such-program")).unwrap_err();
        assert!(format!("{error:#}").contains("could not start `no-such-program`"), "{error:#}");
    }
}
