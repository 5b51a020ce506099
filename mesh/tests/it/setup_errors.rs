//! Every set-up error is one line that names the cause and the fix.

use std::net::TcpListener;

use crate::running::{State, consul, mesh, port_base, run};

/// The one line of a failed set-up.
fn setup_error(command: std::process::Command) -> String {
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
    let text = setup_error(state.command(["up", "--registry", "embedded", "--port-base", &base]));
    assert!(text.contains("(order-service 1)") && text.contains("--order-port"), "{text}");
    assert!(text.contains("CONSORT_PORT_ORDER") && text.contains("--port-base"), "{text}");
}

#[test]
fn a_consul_that_is_named_and_absent_is_not_replaced() {
    let (state, base) = (State::new(), port_base());
    let unused_address = format!("127.0.0.1:{base}");
    let mut command = state.command(["up"]);
    command.env("CONSUL_HTTP_ADDR", &unused_address);
    let text = setup_error(command);
    assert!(text.contains("CONSUL_HTTP_ADDR") && text.contains(&unused_address), "{text}");
    let text = setup_error(state.command(["up", "--registry", &format!("http://{unused_address}")]));
    assert!(text.contains("--registry") && text.contains(&unused_address), "{text}");
}

#[test]
fn what_is_unknown_is_answered_with_what_there_is() {
    let text = setup_error(mesh(["serve", "card-service"]));
    assert!(text.contains("cart-service, order-service, product-service"), "{text}");
    assert!(text.contains("payment-service, user-service"), "{text}");
    let state = State::new();
    let text = setup_error(state.command(["call", "shop.cart.v1.CartService/Get"]));
    assert!(text.contains("GetCart"), "{text}");
    let text = setup_error(state.command(["load", "shop.card.v1.CardService/Get"]));
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
        let text = setup_error(command);
        assert!(text.contains("mesh up") && text.contains("CONSUL_HTTP_ADDR"), "{text}");
    }
}

#[test]
fn a_program_that_is_no_consul_is_not_started() {
    let state = State::new();
    let mut command = state.command(["up", "--registry", "consul"]);
    command.env("CONSUL_BIN", "/bin/true");
    let text = setup_error(command);
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
fn a_folder_that_is_not_a_state_directory_is_refused() {
    let state = State::new();
    std::fs::create_dir(state.dir()).unwrap();
    std::fs::write(state.dir().join("thesis.tex"), "x").unwrap();
    let text = setup_error(state.command(["up", "--registry", "embedded", "--fresh"]));
    assert!(text.contains("--state-dir"), "{text}");
    assert!(state.dir().join("thesis.tex").exists());
}

/// Each Service `NAME` puts `NAME_PORT=tcp://...` and more into every pod.
#[test]
fn the_variables_of_a_kubernetes_service_end_no_command() {
    let state = State::new();
    let linked = |mut command: std::process::Command| {
        for service in ["CART", "REGISTRY", "ADMIN"] {
            command.env(format!("CONSORT_{service}_PORT"), "tcp://10.0.0.1:80");
        }
        command
    };
    // Other commands than `up` do not read them.
    let text = setup_error(linked(state.command(["status"])));
    assert!(text.contains("mesh up") && !text.contains("CART"), "{text}");
    let (code, out, err) = run(linked(mesh(["serve", "cart-service", "--auth", "off", "--print-config"])));
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    // `up` prints once that it ignores them, and continues.
    for up in [&["up"][..], &[]] {
        let mut command = linked(mesh([]));
        command.args(up).args(["--registry", "http://127.0.0.1:1", "--state-dir"]).arg(state.dir());
        let (code, _, err) = run(command);
        let lines: Vec<&str> = err.lines().collect();
        assert!(code == 2 && lines.len() == 2, "{err}");
        assert!(lines[0].contains("CONSORT_CART_PORT, ") && lines[0].contains("Kubernetes"), "{err}");
        assert!(lines[1].contains("--registry"), "{err}");
    }
}

#[test]
fn the_former_name_of_a_port_is_still_read() {
    let (state, base) = (State::new(), port_base());
    let taken = TcpListener::bind(("127.0.0.1", base + 1)).unwrap();
    let port = taken.local_addr().unwrap().port();
    for name in ["CONSORT_CART_PORT", "CONSORT_PORT_CART"] {
        let mut command = state.command(["up", "--registry", "embedded"]);
        let text = setup_error({
            command.env(name, port.to_string()).env("CONSORT_PORT_BASE", base.to_string());
            command
        });
        assert!(text.contains(&format!("port {port} (cart-service 1)")), "{text}");
    }
    let mut command = state.command(["up", "--registry", "embedded"]);
    command.env("CONSORT_CART_PORT", "eighty");
    let text = setup_error(command);
    assert!(text.contains("CONSORT_CART_PORT") && text.contains("CONSORT_PORT_CART"), "{text}");
}

#[test]
fn a_setting_that_is_not_understood_is_refused_by_name_and_not_repeated() {
    let state = State::new();
    for (name, value, words) in [
        ("RUST_LOG", "warning", "error, warn, info, debug, trace"),
        ("DATABASE_URL", "sqlite:canary.db\r", "control character"),
        ("DATABASE_URL", "postgres://shop:can?canary@db/cart", "%3F"),
        ("DATABASE_URL", "host=db user=shop password=canary", "postgres://USER:PASSWORD@HOST/NAME"),
        ("CONSUL_HTTP_ADDR", "http://user:canary@127.0.0.1:1", "CONSUL_HTTP_AUTH"),
        ("CONSORT_DRAIN", "2s\r", "control character"),
    ] {
        for print in [&["--print-config"][..], &[]] {
            let mut command = state.command(["serve", "cart-service", "--auth", "off"]);
            command.args(print).env(name, value);
            let (code, out, err) = run(command);
            assert_eq!(code, 2, "{name}: {out}{err}");
            assert!(err.contains(words), "{name}: {err}");
            assert!(!out.contains("canary") && !err.contains("canary"), "{name}: {out}{err}");
        }
    }
    let mut command = state.command(["status"]);
    command.env("RUST_LOG", "warning");
    let text = setup_error(command);
    assert!(text.contains("RUST_LOG") && text.contains("error, warn, info, debug, trace"), "{text}");
}
