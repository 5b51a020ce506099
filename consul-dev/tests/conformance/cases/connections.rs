//! The bound on connections.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::{Case, cases};
use crate::agents::Target;

pub(super) fn cases() -> Vec<Case> {
    cases![more_than_200_connections_of_a_client_are_429.alone().since((1, 9, 0), "they were reset")]
}

async fn more_than_200_connections_of_a_client_are_429(target: Target) {
    target.register(json!({"Name": "many"})).await;
    let index = target.get("/v1/health/service/many").await.index();
    let address = target.client().address().to_owned();
    let request = format!("GET /v1/health/service/many?index={index}&wait=60s HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut blocked = Vec::new();
    let rejection = loop {
        assert!(blocked.len() <= 200, "{} blocked queries and no refusal", blocked.len());
        let mut stream = TcpStream::connect(&address).await.expect("no connection");
        stream.write_all(request.as_bytes()).await.expect("not sent");
        let mut response = Vec::new();
        // The error comes before the request is read; a reset behind it may discard it.
        match timeout(Duration::from_millis(30), stream.read_to_end(&mut response)).await {
            Err(_) => blocked.push(stream),
            Ok(_) => break String::from_utf8_lossy(&response).into_owned(),
        }
    };
    // The client of the cases holds a few of the 200 itself.
    assert!(blocked.len() > 150, "refused after {}", blocked.len());
    if !rejection.is_empty() {
        assert!(rejection.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{rejection}");
        assert!(rejection.contains("Connection: close\r\n"), "{rejection}");
        let text = "Your IP is issuing too many concurrent connections, please rate limit your calls\n";
        assert!(rejection.ends_with(text), "{rejection}");
    }
    drop(blocked);
    // After they are closed, new connections are accepted again.
    for _ in 0..100 {
        if let Some(reply) = target.client().try_send(crate::http::Request::get("/v1/status/leader")).await
            && reply.status == 200
        {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("no answer after the connections were closed");
}
