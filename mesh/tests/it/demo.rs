//! `mesh demo`, as scripts read it.

use serde_json::Value;

use crate::running::{mesh, port_base, run};

/// The share of calls in percent that may fail here, because other tests run at
/// the same time and the deadline is a second.
const MAX_FAILED_PERCENT: u64 = 5;

#[test]
fn a_demo_kills_an_instance_shows_each_second_and_judges() {
    let base = port_base();
    let (code, out, err) = run(mesh(["demo", "failover", "--json", "--port-base", &base.to_string()]));
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (last, seconds) = lines.split_last().unwrap_or_else(|| panic!("no output: {err}"));
    let verdict = &last["verdict"];
    assert_eq!(code, i32::from(verdict["met"] == false), "{last}{err}");
    assert!(verdict["targets"][1]["met"] == true, "the killed one answers again: {last}");

    let sum = |what: &str| seconds.iter().map(|line| line[what].as_u64().unwrap()).sum::<u64>();
    let (ok, failed) = (sum("ok"), sum("failed"));
    assert!(
        ok > 2_000 && failed * 100 <= (ok + failed) * MAX_FAILED_PERCENT,
        "{ok} ok, {failed} failed: {last}"
    );
    // The responses of the three instances in a second.
    let shares = |line: &Value| {
        let counts = line["by_endpoint"].as_object().unwrap();
        let least = counts.values().map(|count| count.as_u64().unwrap()).min().unwrap();
        (if counts.len() < 3 { 0 } else { least }, line["ok"].as_u64().unwrap())
    };
    let even = |line: &Value| matches!(shares(line), (least, ok) if least * 6 >= ok);
    assert!(seconds.iter().any(even), "all three answer before: {out}");
    assert!(seconds.iter().any(|line| !even(line)), "and one hardly does while it is gone: {out}");
    let ports = [base, base + 10, base + 11, base + 12];
    assert!(
        ports.iter().all(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()),
        "all is stopped"
    );
}
