//! Whatever cannot work is said in one line that names cause and mend.

use std::net::TcpListener;

use crate::running::{State, consul, mesh, port_base, run};

/// The one line of a failed set-up.
fn complaint(command: std::process::Command) -> String {
    let (code, out, err) = run(command);
    assert_eq!(code, 2, "{out}{err}");
    assert_eq!(err.trim_end().lines().count(), 1, "one line, not\n{err}");
    err
}

#[test]
fn a_taken_port_is_named_with_the_flag_that_changes_it() {
    let (state, base) = (State::new(), port_base());
    let _taken = TcpListener::bind(("127.0.0.1", base + 20)).unwrap();
    let base = base.to_string();
    let text = complaint(state.command(["up", "--registry", "embedded", "--port-base", &base]));
    assert!(text.contains("(order-service 1)") && text.contains("--order-port"), "{text}");
    assert!(text.contains("CONSORT_ORDER_PORT") && text.contains("--port-base"), "{text}");
}

#[test]
fn a_consul_that_is_named_and_absent_is_not_replaced() {
    let (state, base) = (State::new(), port_base());
    let nobody = format!("127.0.0.1:{base}");
    let mut command = state.command(["up"]);
    command.env("CONSUL_HTTP_ADDR", &nobody);
    let text = complaint(command);
    assert!(text.contains("CONSUL_HTTP_ADDR") && text.contains(&nobody), "{text}");
    let text = complaint(state.command(["up", "--registry", &format!("http://{nobody}")]));
    assert!(text.contains("--registry") && text.contains(&nobody), "{text}");
}

#[test]
fn what_is_unknown_is_answered_with_what_there_is() {
    let text = complaint(mesh(["serve", "card-service"]));
    assert!(text.contains("cart-service, order-service, product-service"), "{text}");
    assert!(text.contains("payment-service, user-service"), "{text}");
    let state = State::new();
    let text = complaint(state.command(["call", "shop.cart.v1.CartService/Get"]));
    assert!(text.contains("GetCart"), "{text}");
    let text = complaint(state.command(["load", "shop.card.v1.CardService/Get"]));
    assert!(text.contains("shop.cart.v1.CartService"), "{text}");
}

#[test]
fn without_a_mesh_every_command_says_how_to_start_one() {
    let state = State::new();
    for command in [
        state.command(["status"]),
        state.command(["explain", "cart-service"]),
        state.command(["call", "shop.cart.v1.CartService/GetCart"]),
        state.command(["load", "shop.cart.v1.CartService/GetCart"]),
    ] {
        let text = complaint(command);
        assert!(text.contains("mesh up") && text.contains("CONSUL_HTTP_ADDR"), "{text}");
    }
}

#[test]
fn a_program_that_is_no_consul_is_not_started() {
    let state = State::new();
    let mut command = state.command(["up", "--registry", "consul"]);
    command.env("CONSUL_BIN", "/bin/true");
    let text = complaint(command);
    assert!(text.contains("CONSUL_BIN"), "{text}");
    assert!(consul().is_file());
}

#[test]
fn a_bad_flag_is_a_usage_error() {
    let (code, _, err) = run(mesh(["up", "--replicas", "0"]));
    assert_eq!(code, 2);
    assert!(err.contains("--replicas"), "{err}");
}

#[test]
fn a_folder_of_somebody_else_is_refused() {
    let state = State::new();
    std::fs::create_dir(state.dir()).unwrap();
    std::fs::write(state.dir().join("thesis.tex"), "x").unwrap();
    let text = complaint(state.command(["up", "--registry", "embedded", "--fresh"]));
    assert!(text.contains("--state-dir"), "{text}");
    assert!(state.dir().join("thesis.tex").exists());
}
