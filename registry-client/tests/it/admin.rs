//! The admin endpoint over HTTP.

use std::{net::SocketAddr, time::Duration};

use registry_client::{AdminConfig, Mesh, instance::Instance, resolve::fixed::FixedResolver};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use crate::{
    scripted::{Connection, Scripted},
    server::within,
};

/// The status and the body of one response.
async fn get(admin: SocketAddr, line: &str) -> (u16, String) {
    let (status, _, body) = answer(admin, line).await;
    (status, body)
}

/// The status, the head and the body of one response.
async fn answer(admin: SocketAddr, line: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(admin).await.unwrap();
    stream.write_all(format!("{line} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_owned(), body.to_owned())
}

async fn debug(admin: SocketAddr) -> Value {
    let (status, body) = get(admin, "GET /debug/mesh").await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn anywhere_on_loopback() -> AdminConfig {
    AdminConfig::new("127.0.0.1:0".parse().unwrap())
}

#[tokio::test]
async fn a_process_tells_of_its_servers_and_its_channels() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let instance = Instance::new("test-1", address.into());
    let mesh = Mesh::builder().resolver(FixedResolver::with([instance])).build().unwrap();
    let admin = mesh.admin(&anywhere_on_loopback()).await.unwrap();
    let empty = debug(admin).await;
    assert_eq!(empty["process"]["pid"], std::process::id());
    assert_eq!((&empty["servers"], &empty["channels"]), (&Value::Array(vec![]), &Value::Array(vec![])));
    assert_eq!(get(admin, "GET /healthz").await.0, 200);

    let server = mesh.serve("test").version("1.2.3").descriptors(crate::admission::descriptors());
    let server = server.add_service(Scripted::default());
    let health = server.health();
    let (stop, stopped) = oneshot::channel::<()>();
    let run = tokio::spawn(server.run(listener, async {
        let _ = stopped.await;
    }));
    assert_eq!(Connection::open(address).await.echo().await, "hello");
    let _channel = mesh.channel("test");
    let reported = within(async {
        loop {
            let reported = debug(admin).await;
            if reported["channels"][0]["ready"] == 1 {
                return reported;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let server = &reported["servers"][0];
    assert_eq!((&server["service"], &server["version"]), (&"test".into(), &"1.2.3".into()));
    assert_eq!(server["listens"], address.to_string());
    assert_eq!((&server["serving"], &server["registration"]), (&true.into(), &Value::Null));
    let echo =
        server["admission"].as_array().unwrap().iter().find(|m| m["method"] == "test.v1.Scripted/Echo");
    assert_eq!(echo.unwrap()["limit"], 1_000);
    let instance = &reported["channels"][0]["instances"][0];
    assert_eq!((&instance["id"], &instance["ready"]), (&"test-1".into(), &true.into()));

    health.report("test.v1.Scripted", false);
    assert_eq!(get(admin, "GET /healthz").await, (503, "test does not serve\n".to_owned()));
    stop.send(()).unwrap();
    within(run).await.unwrap().unwrap();
    assert_eq!(debug(admin).await["servers"], Value::Array(vec![]));

    drop((mesh, _channel));
    within(async { while TcpStream::connect(admin).await.is_ok() {} }).await;
}

#[tokio::test]
async fn what_is_not_there_is_answered_with_what_is() {
    let mesh = Mesh::builder().resolver(FixedResolver::with([])).build().unwrap();
    let admin = mesh.admin(&anywhere_on_loopback()).await.unwrap();
    let (status, body) = get(admin, "GET /").await;
    assert!(status == 404 && body.contains("/debug/mesh") && body.contains("/healthz"), "{status} {body}");
    assert_eq!(get(admin, "POST /debug/mesh").await.0, 405);
    assert!(mesh.admin(&anywhere_on_loopback()).await.unwrap_err().to_string().contains("already"));
}

#[tokio::test]
async fn mute_and_slow_connections_keep_nobody_out() {
    let mesh = Mesh::builder().resolver(FixedResolver::with([])).build().unwrap();
    let admin = mesh.admin(&anywhere_on_loopback()).await.unwrap();
    let mut held = Vec::new();
    for n in 0..200 {
        let mut stream = TcpStream::connect(admin).await.unwrap();
        // Every other one has begun a request.
        let begun: &[u8] = if n % 2 == 0 { b"" } else { b"GET /healthz HTTP/1.1\r\nhost: " };
        // The endpoint may have closed it already.
        let _ = stream.write_all(begun).await;
        held.push(stream);
        if n % 20 == 19 {
            let renders = get(admin, "GET /healthz");
            let (status, _) = tokio::time::timeout(Duration::from_secs(1), renders).await.unwrap();
            assert_eq!(status, 200);
        }
    }
    // All of them are closed by themselves.
    let closed = async {
        for mut stream in held {
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), closed).await.unwrap();
}

#[tokio::test]
async fn an_address_that_others_reach_is_refused_unless_it_is_allowed() {
    let mesh = Mesh::builder().resolver(FixedResolver::with([])).build().unwrap();
    let mut config = AdminConfig::new("0.0.0.0:0".parse().unwrap());
    let said = mesh.admin(&config).await.unwrap_err().to_string();
    assert!(said.contains("0.0.0.0:0") && said.contains("CONSORT_ADMIN_ANYWHERE"), "{said}");
    config.anywhere = true;
    mesh.admin(&config).await.unwrap();
}

#[tokio::test]
async fn peers_that_say_nothing_or_too_much_do_not_keep_others_out() {
    let mesh = Mesh::builder().resolver(FixedResolver::with([])).build().unwrap();
    let admin = mesh.admin(&anywhere_on_loopback()).await.unwrap();
    let mut mute = Vec::new();
    for _ in 0..20 {
        mute.push(TcpStream::connect(admin).await.unwrap());
    }
    assert_eq!(get(admin, "GET /debug/mesh").await.0, 200);
    let much = format!("GET /debug/mesh HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(100_000));
    let mut stream = TcpStream::connect(admin).await.unwrap();
    let _ = stream.write_all(much.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = within(stream.read_to_end(&mut answer)).await;
    assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));
    assert_eq!(debug(admin).await["process"]["pid"], std::process::id());
}

#[tokio::test]
async fn metrics_are_the_page_that_the_program_renders_at_each_request() {
    let mut renders = 0;
    let mesh = Mesh::builder().resolver(FixedResolver::with([])).metrics_page(move || {
        renders += 1;
        match renders {
            1 => Ok(format!("# TYPE renders_total counter\nrenders_total {renders}\n")),
            2 => Err("no ink"),
            _ => panic!("torn"),
        }
    });
    let mesh = mesh.build().unwrap();
    let admin = mesh.admin(&anywhere_on_loopback()).await.unwrap();
    let (status, head, body) = answer(admin, "GET /metrics").await;
    assert_eq!((status, body.as_str()), (200, "# TYPE renders_total counter\nrenders_total 1\n"));
    assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert_eq!(get(admin, "GET /metrics").await, (500, "cannot be rendered: no ink\n".to_owned()));
    for _ in 0..2 {
        assert_eq!(get(admin, "GET /metrics").await, (500, "cannot be rendered: that panicked\n".to_owned()));
    }
    assert_eq!(get(admin, "GET /healthz").await.0, 200);
}

#[tokio::test]
async fn a_page_that_takes_long_holds_up_nothing_else_and_keeps_no_mesh() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (begin, mut begun) = tokio::sync::mpsc::channel(3);
    let mesh = Mesh::builder().resolver(FixedResolver::with([])).metrics_page(move || {
        let _ = begin.blocking_send(());
        // Ends, with an error, when the test does.
        wait.recv().map(|()| "rendered\n".to_owned())
    });
    let mesh = mesh.build().unwrap();
    let admin = mesh.admin(&anywhere_on_loopback()).await.unwrap();
    let slow = [(); 2].map(|()| tokio::spawn(answer(admin, "GET /metrics")));
    within(begun.recv()).await.unwrap();
    assert_eq!(get(admin, "GET /healthz").await.0, 200);
    for renders in slow {
        go.send(()).unwrap();
        assert_eq!(within(renders).await.unwrap().2, "rendered\n");
    }
    within(begun.recv()).await.unwrap();
    let _held = tokio::spawn(answer(admin, "GET /metrics"));
    within(begun.recv()).await.unwrap();
    drop(mesh);
    within(async { while TcpStream::connect(admin).await.is_ok() {} }).await;
}

#[tokio::test]
async fn where_nothing_is_measured_metrics_say_so() {
    let mesh = Mesh::builder().resolver(FixedResolver::with([])).build().unwrap();
    let admin = mesh.admin(&anywhere_on_loopback()).await.unwrap();
    let (status, body) = get(admin, "GET /metrics").await;
    assert!(
        status == 404 && body.contains("metrics_page") && body.contains("/debug/mesh"),
        "{status} {body}"
    );
}
