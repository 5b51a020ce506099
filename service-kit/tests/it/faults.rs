//! Disks that fail under a process, and servers that die.
//!
//! The process is this program again, writing one row after the other; strace
//! makes its system calls fail for as long as it is attached.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::{Duration, Instant},
};

use service_kit::{database::Database, testing::TestDatabase};

use crate::database::{MIGRATIONS, open};

const TIMEOUT: Duration = Duration::from_secs(30);
/// The time within which a repaired disk must be noticed.
const RECOVERY: Duration = Duration::from_secs(5);
const WRITE: &str = "INSERT INTO counters (name, value) VALUES ($1, 1)";

/// Not a test: the process that writes. The database's name is the first line
/// of its standard input, which it ends with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the tests beside it"]
async fn a_process_that_writes() {
    let mut url = String::new();
    std::io::stdin().read_line(&mut url).unwrap();
    let database = Database::open(&url.trim().parse().unwrap(), &MIGRATIONS).await.unwrap();
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    for number in 0.. {
        if ended.is_finished() {
            return;
        }
        let done = write(&database, number).await;
        let health = database.health().borrow().is_healthy();
        let read = database.row("SELECT COUNT(*) AS count FROM counters", &[]).await.is_ok();
        let line = match done {
            Ok(()) => format!("\nwrote {number} {health} {read}\n"),
            Err(_) => format!("\nfailed {number} {health} {read}\n"),
        };
        std::io::stdout().write_all(line.as_bytes()).unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn write(database: &Database, number: i64) -> Result<(), service_kit::database::Error> {
    let mut open = database.begin().await?;
    open.execute(WRITE, &[number.to_string().into()]).await?;
    open.commit().await
}

#[derive(Clone, Debug)]
struct Line {
    wrote: bool,
    number: i64,
    healthy: bool,
    readable: bool,
}

struct Writer {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Line>,
    acknowledged: Vec<i64>,
}

impl Writer {
    fn start(database: &TestDatabase) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "faults::a_process_that_writes", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, "{}", database.url()).unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.filter_map(|line| parse(&line)) {
                let _ = sender.send(line);
            }
        });
        Self { child, stdin: Some(stdin), lines: receiver, acknowledged: Vec::new() }
    }

    fn next(&mut self) -> Line {
        let line = self.lines.recv_timeout(TIMEOUT).expect("the process that writes printed nothing");
        if line.wrote {
            self.acknowledged.push(line.number);
        }
        line
    }

    fn wait(&mut self, mut until: impl FnMut(&Line) -> bool) -> Line {
        let give_up = Instant::now() + TIMEOUT;
        loop {
            let line = self.next();
            if until(&line) {
                return line;
            }
            assert!(Instant::now() < give_up, "waited in vain, last {line:?}");
        }
    }

    /// Ends it; returns the number of acknowledged writes.
    fn end(mut self) -> Vec<i64> {
        drop(self.stdin.take());
        self.child.wait().unwrap();
        let rest = std::mem::take(&mut self.acknowledged);
        rest.into_iter()
            .chain(self.lines.try_iter().filter(|line| line.wrote).map(|line| line.number))
            .collect()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn parse(line: &str) -> Option<Line> {
    let words: Vec<_> = line.split(' ').collect();
    let [what @ ("wrote" | "failed"), number, healthy, readable] = words[..] else { return None };
    let number = number.parse().ok()?;
    Some(Line { wrote: what == "wrote", number, healthy: healthy == "true", readable: readable == "true" })
}

/// System calls of a process fail until this is dropped.
struct Fault(Child);

impl Fault {
    fn inject(calls: &str, error: &str, writer: &Writer) -> Self {
        let strace = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={calls}:error={error}"), "-p", &writer.child.id().to_string()])
            .stdin(Stdio::null())
            .spawn();
        Self(strace.expect("there is no strace; run `cargo xtask setup`"))
    }

    fn end(mut self) {
        // On SIGTERM it lets go of the process; on SIGKILL it might not.
        let id = self.0.id().to_string();
        Command::new("kill").args(["-TERM", &id]).status().unwrap();
        self.0.wait().unwrap();
    }
}

async fn survives(calls: &str, error: &str) {
    let file = TestDatabase::sqlite();
    let mut writer = Writer::start(&file);
    writer.wait(|line| line.number >= 20);
    let mut fault = Fault::inject(calls, error, &writer);
    let first = writer.wait(|line| {
        if let Some(ended) = fault.0.try_wait().unwrap() {
            panic!(
                "strace could not attach ({ended}): run the tests as root or with kernel.yama.ptrace_scope=0"
            );
        }
        !line.wrote
    });
    assert!(first.readable, "what was written before cannot be read");
    // Nothing is acknowledged, for as many probes as fit into this time.
    let until = Instant::now() + Duration::from_millis(1_500);
    let mut unhealthy = 0;
    while Instant::now() < until {
        let line = writer.next();
        assert!(!line.wrote, "acknowledged {line:?} although {calls} fails");
        unhealthy += usize::from(!line.healthy);
    }
    assert!(unhealthy > 10, "the failure was not reported");

    fault.end();
    let well = Instant::now();
    writer.wait(|line| line.wrote && line.healthy);
    assert!(well.elapsed() < RECOVERY, "noticed after {:?}", well.elapsed());
    let after = writer.acknowledged.len();
    writer.wait(|line| line.number >= 0 && line.wrote);
    assert!(writer.acknowledged.len() > after);

    let acknowledged = writer.end();
    let database = open(&file).await;
    for number in acknowledged {
        let value = crate::database::value(&database, &number.to_string()).await;
        assert_eq!(value, Some(1), "{number} was acknowledged");
    }
}

#[tokio::test]
async fn a_failed_fsync_is_never_a_success_and_passes_with_its_cause() {
    survives("fsync,fdatasync", "EIO").await;
}

#[tokio::test]
async fn a_full_disk_is_never_a_success_and_passes_with_its_cause() {
    survives("pwrite64", "ENOSPC").await;
}

#[tokio::test]
async fn a_disk_that_cannot_be_written_nor_opened_passes_with_its_cause() {
    survives("pwrite64,openat", "EIO").await;
}
