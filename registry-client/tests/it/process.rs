//! What a whole process does: this test binary, started once more as a child
//! that runs one of the ignored tests below.

use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
};

use crate::{
    scripted::Connection,
    server::{Running, within},
};

struct Process {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Process {
    /// Starts the ignored test `name` with at most `files` open files.
    fn start(name: &str, files: u32) -> Self {
        Self::start_after("true", name, files)
    }

    /// The same after a command of the shell.
    fn start_after(before: &str, name: &str, files: u32) -> Self {
        let binary = std::env::current_exe().unwrap();
        let mut child = Command::new("sh")
            .args([
                "-c",
                &format!("{before} && ulimit -n {files} && exec \"$0\" --exact process::{name} --ignored --nocapture"),
            ])
            .arg(binary)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self { child, said }
    }

    /// What follows `word` in the next line that has it.
    fn wait_for(&mut self, word: &str) -> String {
        let mut line = String::new();
        while self.said.read_line(&mut line).unwrap() > 0 {
            if let Some((_, rest)) = line.split_once(word) {
                return rest.trim().to_owned();
            }
            line.clear();
        }
        panic!("the child ended before it said `{word}`");
    }

    fn kill(&self, signal: &str) {
        // The shell's own `kill`: a minimal system has no program of that name.
        let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {}", self.child.id())]).status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    for (signal, code) in [("TERM", 143), ("INT", 130), ("HUP", 129)] {
        let mut process = Process::start("child_that_never_finishes_stopping", 256);
        process.wait_for("listening");
        process.kill(signal);
        process.wait_for("stopping");
        process.kill(signal);
        assert_eq!(process.child.wait().unwrap().code(), Some(code));
    }
}

#[test]
fn under_nohup_a_hangup_is_ignored() {
    let mut process = Process::start_after("trap '' HUP", "child_that_never_finishes_stopping", 256);
    process.wait_for("listening");
    process.kill("HUP");
    process.kill("HUP");
    process.kill("TERM");
    process.wait_for("stopping");
    process.kill("TERM");
    assert_eq!(process.child.wait().unwrap().code(), Some(143));
}

#[tokio::test]
#[ignore = "not a test of its own: the child of another"]
async fn child_that_never_finishes_stopping() {
    let signal = registry_client::server::shutdown_signal();
    println!("listening");
    signal.await;
    println!("stopping");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_peer_that_opens_more_connections_than_there_are_files_keeps_nobody_out() {
    let mut process = Process::start("child_that_serves", 64);
    let address = process.wait_for("serving on ").parse().unwrap();
    let early = Connection::open(address).await;
    let mut many = Vec::new();
    for _ in 0..100 {
        many.push(crate::peers::from(66, address).await);
    }
    assert_eq!(within(early.echo()).await, "hello");
    assert_eq!(within(Connection::open(address).await.echo()).await, "hello");
    let other = crate::peers::from(67, address).await;
    let other = Connection::over(other, &h2::client::Builder::new()).await;
    assert_eq!(within(other.echo()).await, "hello");
}

#[tokio::test]
#[ignore = "not a test of its own: the child of another"]
async fn child_that_serves() {
    let server = Running::start(|_| {}).await;
    println!("serving on {}", server.address);
    server.run.await.unwrap().unwrap();
}
