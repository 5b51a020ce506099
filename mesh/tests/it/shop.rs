//! The whole shop: started, used, with faults, and stopped.

use std::{process::Command, time::Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    dns::srv_ports,
    running::{RunningMesh, State, consul, is_alive, pids, port_base, run, signal, tool, wait_until},
};

const GET_CART: &str = "shop.cart.v1.CartService/GetCart";
const SERVICES: [&str; 5] =
    ["cart-service", "order-service", "product-service", "payment-service", "user-service"];

/// Everything that one running mesh must do; one test, because the start is
/// expensive.
#[test]
fn the_embedded_mesh_sells_survives_and_remembers() {
    let (state, base) = (State::new(), port_base());
    let mut up = RunningMesh::start(&state.dir(), base, &["--registry", "embedded"]);
    let status = state.all_passing();
    assert_eq!(status["instances"].as_array().unwrap().len(), 10);
    for service in SERVICES {
        assert_eq!(pids(&status, service).len(), 2, "{service}: {status}");
    }
    assert!(up.printed.contains("callers   are not authenticated; `mesh up --auth`"), "{}", up.printed);
    assert!(up.printed.contains(status["registry"].as_str().unwrap()), "{}", up.printed);

    let order = buy(&state);
    metrics_show_events_and_calls(&status);
    assert!(!up.printed.contains("dig "), "the embedded registry answers no DNS: {}", up.printed);
    pasted_lines_work(&up.printed);
    a_second_mesh_on_the_same_directory_is_refused(&state, base);
    a_bad_call_prints_its_details(&state);
    explain_shows_why_calls_go_where_they_go(&state, &status);
    a_killed_instance_costs_no_call_and_comes_back(&state, &mut up, &status);
    a_stopped_instance_costs_no_call_of_any_kind(&state, &mut up);

    let all = pids(&state.all_passing(), "");
    assert_eq!(up.stop(), 0);
    assert!(all.iter().all(|pid| !is_alive(*pid)), "a process outlived an orderly stop");

    let began = Instant::now();
    let up = RunningMesh::start(&state.dir(), base, &["--registry", "embedded"]);
    eprintln!("the second start took {:?}", began.elapsed());
    let again = state.call("shop.order.v1.OrderService/GetOrder", &json!({"order_id": order}).to_string());
    assert_eq!(again["order_id"], order, "an order outlives a restart");

    let all = pids(&state.all_passing(), "");
    up.kill();
    wait_until(|| all.iter().all(|pid| !is_alive(*pid)).then_some(()));
}

/// Fills a cart and orders it; returns the order's id.
fn buy(state: &State) -> Value {
    let customer = json!({"customer_id": "ada"});
    let products = state.call("shop.product.v1.ProductService/ListProducts", "{}");
    let products = products["products"].as_array().unwrap();
    assert_eq!(products.len(), 10);
    let item = json!({"customer_id": "ada", "product_id": products[0]["product_id"], "quantity": 2});
    state.call("shop.cart.v1.CartService/AddItem", &item.to_string());
    let cart = state.call(GET_CART, &customer.to_string());
    assert_eq!(cart["items"][0]["quantity"], 2, "{cart}");
    let request = json!({"customer_id": "ada", "request_id": "0190a5c4-6a5e-7c3a-9e59-0f3b1c2d4e5f"});
    let order = state.call("shop.order.v1.OrderService/CreateOrder", &request.to_string());
    let same = state.call("shop.order.v1.OrderService/CreateOrder", &request.to_string());
    assert_eq!(order["order_id"], same["order_id"], "the same request is the same order");
    order["order_id"].clone()
}

/// Every process serves its metrics; those of order-service include the calls
/// of the order and the events that wait for delivery.
fn metrics_show_events_and_calls(status: &Value) {
    let mut cart_calls = 0.0;
    for instance in status["instances"].as_array().unwrap() {
        let (_, page, err) = run(curl(&format!("http://{}/metrics", instance["admin"].as_str().unwrap())));
        let service = instance["service"].as_str().unwrap();
        assert!(page.contains(&format!("target_info{{service_name=\"{service}\"")), "{err}{page}");
        if service != "order-service" {
            continue;
        }
        for family in ["shop_events_waiting", "shop_events_oldest_age_seconds"] {
            assert!(page.contains(&format!("# HELP {family} ")), "{page}");
            assert!(page.contains(&format!("{family}{{shop_subscriber=\"user-service\"}}")), "{page}");
        }
        const CALLS: &str = "grpc_client_attempt_started_total{grpc_target=\"cart-service\"} ";
        let calls = page.lines().find_map(|line| line.strip_prefix(CALLS));
        cart_calls += calls.unwrap_or_else(|| panic!("no `{CALLS}` in {page}")).parse::<f64>().unwrap();
    }
    assert!(cart_calls >= 1.0, "the order was made of a cart");
}

/// Runs every line that `mesh up` printed to be pasted, in a shell.
fn pasted_lines_work(printed: &str) {
    let lines: Vec<_> = printed
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("grpcurl ") || line.starts_with("curl "))
        .collect();
    assert_eq!(lines.iter().filter(|line| line.starts_with("grpcurl ")).count(), 3, "{printed}");
    assert_eq!(lines.iter().filter(|line| line.starts_with("curl ")).count(), 2, "{printed}");
    let tools = tool("grpcurl");
    let path = std::env::var_os("PATH").unwrap();
    let places = std::iter::once(tools.parent().unwrap().to_owned()).chain(std::env::split_paths(&path));
    let path = std::env::join_paths(places).unwrap();
    let outputs: Vec<_> = lines
        .iter()
        .map(|line| {
            let mut shell = Command::new("sh");
            shell.args(["-c", line]).env("PATH", &path);
            let (code, out, err) = run(shell);
            assert_eq!(code, 0, "{line}\n{out}{err}");
            out
        })
        .collect();
    assert!(outputs[0].contains("shop.cart.v1.CartService"), "{}", outputs[0]);
    assert!(outputs[2].contains("orderId"), "{}", outputs[2]);
    assert!(outputs[3].contains("ServiceID"), "{}", outputs[3]);
    assert!(outputs[4].contains("product-service"), "{}", outputs[4]);
}

fn a_second_mesh_on_the_same_directory_is_refused(state: &State, base: u16) {
    let (code, _, err) = run(state.command(["up", "--port-base", &(base + 200).to_string()]));
    assert_eq!(code, 2);
    assert!(err.contains("already runs") && err.contains("process"), "{err}");
}

fn a_bad_call_prints_its_details(state: &State) {
    let data = r#"{"customer_id":"ada","product_id":"none","quantity":-1}"#;
    let command = state.command(["call", "shop.cart.v1.CartService/AddItem", "--data", data, "--explain"]);
    let (code, out, err) = run(command);
    assert_eq!(code, 1, "{err}");
    assert!(err.starts_with("INVALID_ARGUMENT: ") && err.contains("quantity"), "{err}");
    let explained: Value = serde_json::from_str(&out).unwrap();
    let attempts = explained["explain"]["attempts"].as_array().unwrap();
    assert!(attempts[0]["instance"].is_string() && attempts[0]["why"].is_string(), "{out}");
}

fn explain_shows_why_calls_go_where_they_go(state: &State, status: &Value) {
    let (code, out, err) = run(state.command(["explain", "cart-service", "--json"]));
    assert_eq!(code, 0, "{err}");
    let explained: Value = serde_json::from_str(&out).unwrap();
    let processes = explained["processes"].as_array().unwrap();
    let names: Vec<_> = processes.iter().map(|p| p["process"].as_str().unwrap()).collect();
    for order in ["order-service-1", "order-service-2"] {
        assert!(names.contains(&order), "{order} has a channel to cart-service: {names:?}");
    }
    assert_eq!(explained["silent"], json!([]));
    let listed = status["instances"].as_array().unwrap();
    for process in processes {
        let instance = listed.iter().find(|i| i["pid"] == process["pid"]).unwrap();
        assert_eq!(process["admin"], instance["admin"]);
        assert_eq!(process["channel"]["ready"], 2, "{out}");
    }
    let carts = listed.iter().filter(|i| i["service"] == "cart-service");
    let (code, out, err) = run(state.command(["explain", "cart-service", "--process", "order-service-2"]));
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("order-service-2") && !out.contains("order-service-1"), "{out}");
    for cart in carts {
        let row = out.lines().find(|line| line.contains(cart["id"].as_str().unwrap())).unwrap();
        assert!(row.contains(" in ") && row.contains(" passing "), "{row}");
    }
    let (code, _, err) = run(state.command(["explain", "courier-service"]));
    assert!(code == 2 && err.contains("cart-service") && err.contains("product-service"), "{err}");
    let (code, _, err) = run(state.command(["explain", "cart-service", "--process", "unknown"]));
    assert!(code == 2 && err.contains("order-service-1"), "{err}");
}

fn a_killed_instance_costs_no_call_and_comes_back(state: &State, up: &mut RunningMesh, status: &Value) {
    let victim = pids(status, "cart-service")[0];
    let mut load = state.load(GET_CART, r#"{"customer_id":"ada"}"#, (200, 7));
    load.after(200);
    signal(victim, Signal::KILL);
    up.line(&format!("(process {victim}) was ended by signal 9 (SIGKILL); restarting it"));
    up.line("restarted as process");
    assert!(!pids(&state.all_passing(), "cart-service").contains(&victim));

    let (calls, summary) = load.finish();
    assert_eq!((&summary["failed"], &summary["calls"]), (&json!(0), &json!(1400)), "{summary}");
    assert_eq!(responding_instances(&calls[..200]), 2, "both answer before");
    assert_eq!(responding_instances(&calls[calls.len() - 200..]), 2, "both answer after");
}

fn a_stopped_instance_costs_no_call_of_any_kind(state: &State, up: &mut RunningMesh) {
    let victim = pids(&state.all_passing(), "cart-service")[1];
    let data = r#"{"customer_id":"c{{n}}","product_id":"espresso-beans-1kg","quantity":1}"#;
    let mut load = state.load("shop.cart.v1.CartService/AddItem", data, (40, 5));
    load.after(40);
    signal(victim, Signal::TERM);
    up.line(&format!("(process {victim}) ended with exit code 0; restarting it"));
    let (calls, summary) = load.finish();
    assert_eq!(summary["failed"], 0, "{summary}");
    assert!(calls.iter().all(|call| call["idempotent"] == false), "adding twice adds twice");
}

/// The number of instances that responded to these calls.
fn responding_instances(calls: &[Value]) -> usize {
    let endpoints = calls.iter().filter_map(|call| call["endpoint"].as_str());
    endpoints.collect::<std::collections::BTreeSet<_>>().len()
}

/// The same shop on a real Consul.
#[test]
fn the_mesh_on_a_real_consul_shows_in_its_pages_and_leaves_nothing() {
    let (state, base) = (State::new(), port_base());
    let consul = consul();
    eprintln!("on {}", run(version(&consul)).1.lines().next().unwrap_or_default());
    let mut command = state.command(["up", "--registry", "consul", "--port-base", &base.to_string()]);
    command.env("CONSUL_BIN", &consul);
    let up = RunningMesh::run(command);
    state.all_passing();

    let registry = format!("http://127.0.0.1:{base}");
    let (code, page, _) = run(curl(&format!("{registry}/ui/")));
    assert!(code == 0 && page.contains("<html"), "the web pages answer");
    for service in SERVICES {
        let (_, body, _) = run(curl(&format!("{registry}/v1/health/service/{service}?passing")));
        let entries: Value = serde_json::from_str(&body).unwrap();
        let entries = entries.as_array().unwrap();
        assert_eq!(entries.len(), 2, "{body}");
        for entry in entries {
            let meta = &entry["Service"]["Meta"];
            assert!(meta["protocol"] == "grpc" && meta["version"].is_string(), "{body}");
            assert_eq!(entry["Service"]["Tags"], json!(["grpc"]), "{body}");
            let mut checks = entry["Checks"].as_array().unwrap().iter();
            assert!(checks.any(|c| c["Type"] == "grpc" && c["Status"] == "passing"), "{body}");
        }
    }
    pasted_lines_work(&up.printed);
    dns_lists_the_cart_instances(&up.printed, base);
    assert_eq!(up.stop(), 0);
    wait_until(|| (run(curl(&format!("{registry}/v1/status/leader"))).0 != 0).then_some(()));
}

/// The printed `dig` command works: Consul responds there with the ports of
/// both instances.
fn dns_lists_the_cart_instances(printed: &str, base: u16) {
    let line = printed.lines().map(str::trim).find(|line| line.starts_with("dig "));
    let words: Vec<_> = line.unwrap_or_else(|| panic!("no dig in {printed}")).split(' ').collect();
    let ["dig", "@127.0.0.1", "-p", port, name, "SRV"] = words[..] else { panic!("{words:?}") };
    assert_eq!(srv_ports(port.parse().unwrap(), name), [base + 10, base + 11], "{name}");
}

fn curl(url: &str) -> Command {
    let mut curl = Command::new(tool("curl"));
    curl.args(["-sS", "--max-time", "5", "-L", url]);
    curl
}

fn version(consul: &std::path::Path) -> Command {
    let mut command = Command::new(consul);
    command.arg("version");
    command
}
