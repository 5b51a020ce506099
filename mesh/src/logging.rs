//! Log files, their rotation, and logs on standard error; never on standard
//! output.

use std::{
    fs::{self, File},
    io::{self, Read, Seek},
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use service_kit::telemetry::LogFilter;
use tokio::time::sleep;
use tracing::warn;
use tracing_subscriber::{EnvFilter, fmt};

/// The size above which a log is copied to `.old` and emptied.
const MAX_LOG_BYTES: u64 = 16 << 20;
/// The interval between two checks of the logs.
const ROTATE_INTERVAL: Duration = Duration::from_secs(2);

/// Logs into a file, from `info` up unless `RUST_LOG` is set.
///
/// # Errors
/// When the file cannot be written or `RUST_LOG` cannot be read.
pub(crate) fn to_file(path: &Path) -> Result<()> {
    let file = open_log(path).with_context(|| format!("could not write {}", path.display()))?;
    fmt().with_env_filter(filter("info")?).with_ansi(false).with_writer(Mutex::new(file)).init();
    Ok(())
}

/// Opens a log to add to it.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn open_log(path: &Path) -> io::Result<File> {
    // Each write goes to the end, also after the file was emptied.
    File::options().create(true).append(true).open(path)
}

/// Empties every log in `folder` that has grown too long, until it is dropped.
/// The older lines move to the file of that name with `.old`, which replaces
/// the last one.
pub(crate) async fn rotate(folder: PathBuf) {
    loop {
        let logs = folder.clone();
        let rotated = tokio::task::spawn_blocking(move || rotate_once(&logs, MAX_LOG_BYTES)).await;
        if let Ok(Err(error)) = rotated {
            warn!(%error, folder = %folder.display(), "could not shorten the logs");
        }
        sleep(ROTATE_INTERVAL).await;
    }
}

/// Copies and empties each long log, as logrotate's `copytruncate` does: a
/// process keeps writing to the file that it has open.
fn rotate_once(folder: &Path, max_size: u64) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        if !is_log || fs::metadata(&path)?.len() <= max_size {
            continue;
        }
        let log = File::options().read(true).write(true).open(&path)?;
        let mut old = File::create(path.with_extension("log.old"))?;
        // A log may grow faster than it is read; lines written between the last
        // read and the truncation are lost.
        let mut size = max_size;
        while size > 0 {
            size = io::copy(&mut (&log).take(max_size), &mut old)?;
            if old.stream_position()? >= 2 * max_size {
                break;
            }
        }
        log.set_len(0)?;
    }
    Ok(())
}

/// Logs to standard error, errors only unless `RUST_LOG` is set.
///
/// # Errors
/// When `RUST_LOG` cannot be read.
pub(crate) fn to_stderr() -> Result<()> {
    fmt().with_env_filter(filter("error")?).with_ansi(false).with_writer(io::stderr).init();
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "every command of `main` begins to log by these")]
fn filter(default: &str) -> Result<EnvFilter> {
    let set = std::env::var_os("RUST_LOG").filter(|text| !text.is_empty());
    let text = set.as_ref().map_or(Some(default), |text| text.to_str());
    let filter = LogFilter::parse(text.context("RUST_LOG is not UTF-8")?);
    Ok(filter.map_err(|why| anyhow!("RUST_LOG: {why}"))?.to_env_filter())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_log_that_is_written_to_stays_short_and_its_writer_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("cart-1.log"), folder.path().join("cart-1.log.old"));
        let other = folder.path().join("notes.txt");
        fs::write(&other, [b'x'; 500]).unwrap();
        let mut log = open_log(&path).unwrap();
        let mut lines = 0..;
        let mut write = |log: &mut File, count| {
            for n in lines.by_ref().take(count) {
                writeln!(log, "line {n:03}").unwrap();
            }
        };
        write(&mut log, 10);
        rotate_once(folder.path(), 100).unwrap();
        assert!(!old.exists(), "it is short");
        write(&mut log, 10);
        rotate_once(folder.path(), 100).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
        write(&mut log, 1);
        assert_eq!(fs::read_to_string(&path).unwrap(), "line 020\n", "no hole in front");
        let kept = fs::read_to_string(&old).unwrap();
        assert!(kept.starts_with("line 000") && kept.ends_with("line 019\n"), "{kept}");
        write(&mut log, 90);
        rotate_once(folder.path(), 100).unwrap();
        assert!(fs::metadata(&old).unwrap().len() <= 200, "no longer than twice the most");
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
        assert_eq!(fs::metadata(&other).unwrap().len(), 500);
    }
}
