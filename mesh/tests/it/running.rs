//! A `mesh up` under test, and the commands that talk to it.

use std::{
    io::{BufRead, BufReader, Lines},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
    sync::{
        atomic::{AtomicU32, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// The limit on every wait here.
pub(crate) const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// The prefixes of the variables that `mesh` reads.
const SETTING_PREFIXES: [&str; 12] = [
    "CONSUL_",
    "CONSORT_",
    "OTEL_",
    "RUST_LOG",
    "DATABASE_URL",
    "LISTEN",
    "ADVERTISE",
    "AUTH",
    "ADMIN_",
    "NATS_URL",
    "PAYMENT_FAULTS",
    "CARRIER_FAULTS",
];

/// `mesh` without the settings in the environment of the test run.
pub(crate) fn mesh<const N: usize>(args: [&str; N]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mesh"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if SETTING_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command.args(args);
    command
}

/// Runs a command to its end.
pub(crate) fn run(mut command: Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

/// Finds a tool on PATH, else in the folder of `cargo xtask setup`.
pub(crate) fn tool(name: &str) -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    let tools = set("CONSORT_TOOLS").or_else(|| cache.map(|cache| cache.join("consort/tools")));
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.extend(tools.map(|tools| tools.join("bin")));
    let found = places.iter().map(|place| place.join(name)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("there is no `{name}`: run `cargo xtask setup`"))
}

/// The real Consul of the tests.
pub(crate) fn consul() -> PathBuf {
    std::env::var_os("CONSUL_BIN").filter(|v| !v.is_empty()).map_or_else(|| tool("consul"), PathBuf::from)
}

/// A first port with two hundred free ones behind it, below the range that
/// the system hands out by itself.
pub(crate) fn port_base() -> u16 {
    // Tests of one process start apart, those of several by chance.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id() + NEXT.fetch_add(7, Relaxed);
    let first = u16::try_from(first % 50).unwrap();
    (0..50)
        .map(|n| 20_000 + (first + n) % 50 * 200)
        .find(|base| (*base..base + 160).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()))
        .expect("a range of free ports")
}

/// A running `mesh up`. Dropping it kills it and its processes.
pub(crate) struct RunningMesh {
    child: Child,
    lines: Receiver<String>,
    /// The output so far.
    pub(crate) printed: String,
}

impl RunningMesh {
    /// Starts `mesh up` on `state` and waits for its ready line.
    pub(crate) fn start(state: &Path, base: u16, args: &[&str]) -> Self {
        let mut command = mesh(["up", "--port-base", &base.to_string(), "--state-dir"]);
        command.arg(state).args(args);
        Self::run(command)
    }

    /// Starts `command` and waits for its ready line.
    pub(crate) fn run(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut up = Self { child, lines, printed: String::new() };
        up.line("Ready after");
        up
    }

    /// Waits for a line with these words.
    pub(crate) fn line(&mut self, words: &str) -> String {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.printed += &format!("{line}\n");
                    if line.contains(words) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no `{words}` in:\n{}", self.printed),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("it ended without `{words}`:\n{}", self.printed)
                }
            }
        }
    }

    /// The ids of its own process and of the shop's.
    pub(crate) fn processes(&self, status: &Value) -> Vec<u32> {
        [self.child.id()].into_iter().chain(pids(status, "")).collect()
    }

    /// Sends SIGTERM and returns the exit code.
    pub(crate) fn stop(mut self) -> i32 {
        signal(self.child.id(), Signal::TERM);
        let code = self.child.wait().unwrap().code();
        code.unwrap_or(-1)
    }

    /// Sends SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for RunningMesh {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A state directory, and commands to the mesh that runs on it.
pub(crate) struct State(TempDir);

impl State {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.0.path().join("state")
    }

    pub(crate) fn command<const N: usize>(&self, args: [&str; N]) -> Command {
        let mut command = mesh(args);
        command.arg("--state-dir").arg(self.dir());
        command
    }

    /// Runs `mesh status --json`; returns the exit code and the output.
    pub(crate) fn status(&self) -> (i32, Value) {
        let (code, out, err) = run(self.command(["status", "--json"]));
        assert!(code != 2, "{err}");
        (code, serde_json::from_str(&out).unwrap())
    }

    /// Waits until every instance is passing.
    pub(crate) fn all_passing(&self) -> Value {
        wait_until(|| Some(self.status()).filter(|(code, _)| *code == 0).map(|(_, status)| status))
    }

    /// Starts `mesh load` at `rate` calls a second, of which none may fail. The
    /// deadline leaves room for other load on the machine.
    pub(crate) fn load(&self, method: &str, data: &str, (rate, seconds): (u32, u32)) -> Load {
        let (rate, duration) = (rate.to_string(), format!("{seconds}s"));
        let flags = ["--rate", &rate, "--deadline", "5s", "--max-failed", "0", "--json"];
        let mut command = self.command(["load", method, "--data", data, "--duration", &duration]);
        let mut child = command.args(flags).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Load { child, lines, calls: Vec::new() }
    }

    /// Runs `mesh call` and returns the response.
    pub(crate) fn call(&self, method: &str, data: &str) -> Value {
        let (code, out, err) = run(self.command(["call", method, "--data", data]));
        assert_eq!(code, 0, "{method}: {err}");
        serde_json::from_str(&out).unwrap()
    }
}

/// A running `mesh load`.
pub(crate) struct Load {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    calls: Vec<Value>,
}

impl Load {
    /// Waits until `calls` calls have ended.
    pub(crate) fn after(&mut self, calls: usize) {
        while self.calls.len() < calls {
            let line = self.lines.next().expect("more calls").unwrap();
            self.calls.push(serde_json::from_str(&line).unwrap());
        }
    }

    /// Waits for the end; returns all calls, and the summary of a run that met
    /// its targets.
    pub(crate) fn finish(mut self) -> (Vec<Value>, Value) {
        for line in &mut self.lines {
            self.calls.push(serde_json::from_str(&line.unwrap()).unwrap());
        }
        let summary = self.calls.pop().unwrap()["summary"].clone();
        assert_eq!(self.child.wait().unwrap().code(), Some(0), "{summary}");
        (self.calls, summary)
    }
}

/// The process ids in a status.
pub(crate) fn pids(status: &Value, service: &str) -> Vec<u32> {
    let instances = status["instances"].as_array().unwrap().iter();
    let of_service = instances.filter(|i| service.is_empty() || i["service"] == service);
    of_service.map(|i| u32::try_from(i["pid"].as_u64().unwrap()).unwrap()).collect()
}

/// The memory of these processes in MiB; pages that they share count once, as
/// the kernel divides them among the processes.
pub(crate) fn memory(processes: &[u32]) -> u64 {
    let of_one = |pid: &u32| -> u64 {
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let share = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        let share = share.and_then(|share| share.split_whitespace().next());
        share.unwrap_or_else(|| panic!("no Pss in:\n{rollup}")).parse().unwrap()
    };
    processes.iter().map(of_one).sum::<u64>() / 1_024
}

/// Polls for a state that sends no event when it changes.
pub(crate) fn wait_until<T>(mut poll: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        if let Some(value) = poll() {
            return value;
        }
        assert!(Instant::now() < deadline, "it did not come");
        thread::sleep(Duration::from_millis(50));
    }
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

/// Returns whether a process with that id exists.
pub(crate) fn is_alive(pid: u32) -> bool {
    test_kill_process(Pid::from_raw(pid.cast_signed()).unwrap()).is_ok()
}
