//! Our client against our own server: the cases hold before anybody else is
//! asked. `cargo xtask interop` runs them against the others.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::{Command, Output};

fn interop(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_interop")).args(args).output().unwrap()
}

#[test]
fn our_client_and_our_server_pass_every_case() {
    let output = interop(&["--short"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.trim_end().ends_with("passed, 0 failed"), "{said}");
    assert!(said.contains("| custom_metadata | passed |"), "{said}");
}

#[test]
fn a_case_that_does_not_exist_is_a_wrong_command_line() {
    let output = interop(&["--only", "no_such_case"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no_such_case"));
}

#[test]
fn a_peer_that_was_not_built_says_how_to_build_it() {
    let empty = tempfile::tempdir().unwrap();
    let tools = empty.path().to_str().unwrap();
    let output = interop(&["--peers", "go", "--tools", tools]);
    assert_eq!(output.status.code(), Some(2));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("cargo xtask interop"), "{complaint}");
}
