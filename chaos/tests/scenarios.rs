//! The scenarios in their quick form, as real processes. `cargo xtask chaos`
//! runs all of them in full.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::{Command, Output};

/// Runs one scenario; its logs are in the folder.
fn chaos(id: &str, more: &[&str]) -> (Output, tempfile::TempDir) {
    let logs = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_chaos"));
    command.args([id, "--size", "quick", "--logs"]).arg(logs.path()).args(more);
    (command.output().unwrap(), logs)
}

#[track_caller]
fn holds(id: &str) {
    let (output, logs) = chaos(id, &[]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let logs = logs.keep();
        panic!("{id} was missed; its logs are in {}:\n{stdout}{stderr}", logs.display());
    }
    assert!(stdout.trim_end().ends_with("1 passed, 0 failed"), "{stdout}");
}

#[test]
fn r1_a_killed_instance_fails_no_idempotent_call() {
    holds("R1");
}

#[test]
fn r2_a_rolling_restart_fails_no_call() {
    holds("R2");
}

#[test]
fn r3_a_hung_instance_fails_no_idempotent_call() {
    holds("R3");
}

#[test]
fn r5_load_moves_away_from_a_slow_instance() {
    holds("R5");
}

#[test]
fn r6_an_instance_that_fails_at_once_attracts_no_load() {
    holds("R6");
}

#[test]
fn r8_unhealthy_instances_are_still_tried_when_there_are_no_others() {
    holds("R8");
}

#[test]
fn r9_retries_do_not_multiply_in_an_outage() {
    holds("R9");
}

#[test]
fn r10_what_triggers_an_overload_may_end_and_so_does_the_overload() {
    holds("R10");
}

#[test]
fn r11_rejecting_costs_little_and_rejected_callers_hold_back() {
    holds("R11");
}

#[test]
fn r13_load_is_balanced_and_reaches_a_newcomer() {
    holds("R13");
}

#[test]
fn r16_garbage_leaves_the_last_good_set() {
    holds("R16");
}

#[test]
fn r20_the_same_key_orders_and_charges_once() {
    holds("R20");
}

#[test]
fn r21_exactly_the_stock_is_sold() {
    holds("R21");
}

#[test]
fn r22_a_checkout_survives_a_crash_at_every_write() {
    holds("R22");
}

#[test]
fn r25_a_payment_with_an_unknown_outcome_is_made_once_or_refunded() {
    holds("R25");
}

#[test]
fn r23_a_loss_of_power_takes_no_acknowledged_order() {
    holds("R23");
}

#[test]
fn r26_the_resources_of_a_service_may_fail_and_come_back() {
    holds("R26");
}

#[test]
fn r24_events_have_their_effect_once_and_in_order_despite_kills() {
    holds("R24");
}

#[test]
fn r29_a_hostile_peer_takes_nothing_from_its_neighbour() {
    holds("R29");
}

#[test]
fn r29b_a_hostile_server_hurts_neither_its_clients_nor_their_other_calls() {
    holds("R29b");
}

#[test]
fn r33_servers_of_foreign_make_hold_the_same_promises() {
    holds("R33");
}

/// A scenario that cannot be missed proves nothing.
#[test]
fn a_scenario_is_missed_without_the_mechanism_that_it_guards() {
    let (output, _logs) = chaos("R13", &["--off"]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{stdout}");
    assert!(
        stdout.contains("MISSED round robin") && stdout.trim_end().ends_with("0 passed, 1 failed"),
        "{stdout}"
    );
}

#[test]
fn every_scenario_is_listed_with_what_it_promises() {
    let (output, _logs) = chaos("--list", &[]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    for id in [
        "R1 ", "R2 ", "R3 ", "R10 ", "R11 ", "R13 ", "R14 ", "R18 ", "R20 ", "R21 ", "R25 ", "R29 ", "R29b",
        "R33 ",
    ] {
        assert!(stdout.lines().any(|line| line.starts_with(id)), "{id} is not in {stdout}");
    }
}

#[test]
fn an_unknown_scenario_is_a_wrong_command_line() {
    let (output, _logs) = chaos("R99", &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("R99"));
}
