//! Our client against our own server. `cargo xtask interop` runs the cases
//! against other implementations.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::{Command, Output};

fn interop(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_interop")).args(args).output().unwrap()
}

#[test]
fn our_client_and_our_server_pass_every_case() {
    let output = interop(&["--short"]);
    let output_text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output_text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output_text.trim_end().ends_with("passed, 0 failed"), "{output_text}");
    assert!(output_text.contains("| custom_metadata | passed |"), "{output_text}");
}

#[test]
fn an_unknown_case_is_a_usage_error() {
    let output = interop(&["--only", "no_such_case"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no_such_case"));
}

#[test]
fn a_peer_that_was_not_built_is_an_error_with_the_command() {
    let empty = tempfile::tempdir().unwrap();
    let tools = empty.path().to_str().unwrap();
    let output = interop(&["--peers", "go", "--tools", tools]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("cargo xtask interop"), "{error}");
}
