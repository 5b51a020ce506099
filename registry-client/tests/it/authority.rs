//! Callers whose `:authority` is none. Their frames are written by hand, for no
//! HTTP/2 library sends such a thing.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    log::Log,
    server::within,
    strict::{Server, Strict, message},
};

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

pub(crate) fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0x40, u8::try_from(name.len()).unwrap()];
    field.extend(name.bytes());
    field.push(u8::try_from(value.len()).unwrap());
    field.extend(value.bytes());
    field
}

/// A call as gRPC core writes it: every field with its name, and kept in the
/// table; the next call refers to them.
fn first_call(authority: &str) -> Vec<u8> {
    let fields = [
        literal(":path", "/test.v1.Strict/One"),
        literal(":authority", authority),
        vec![0x83, 0x86],
        literal("content-type", "application/grpc"),
        literal("te", "trailers"),
    ];
    let mut call = frame(HEADERS, 4, 1, &fields.concat());
    call.extend(frame(0, 1, 1, &message("hello")));
    call
}

fn second_call() -> Vec<u8> {
    let mut call = frame(HEADERS, 4, 3, &[0x80 | 65, 0x80 | 64, 0x83, 0x86, 0x80 | 63, 0x80 | 62]);
    call.extend(frame(0, 1, 3, &message("hello")));
    call
}

/// What kind of frame first answers each of the calls.
async fn answers(server: &Server, calls: &[Vec<u8>]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    let mut kinds = Vec::new();
    for (call, id) in calls.iter().zip([1, 3]) {
        stream.write_all(call).await.unwrap();
        loop {
            let mut head = [0; 9];
            within(stream.read_exact(&mut head)).await.unwrap();
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; len as usize];
            within(stream.read_exact(&mut payload)).await.unwrap();
            if head[8] == id {
                kinds.push(head[3]);
                break;
            }
        }
    }
    kinds
}

#[tokio::test]
async fn a_list_of_addresses_and_a_socket_are_served() {
    let server = Server::start(Strict::default(), |_| {}).await;
    for authority in [
        "localhost:50051",
        "127.0.0.1:50051,127.0.0.1:50052",
        "[::1]:50051,[::1]:50052",
        "tmp%2Fa.sock",
        "/run/a.sock",
        "extension/k8s/auth",
    ] {
        let calls = [first_call(authority), second_call()];
        assert_eq!(answers(&server, &calls).await, [HEADERS, HEADERS], "{authority}");
    }
}

#[tokio::test]
async fn one_that_cannot_be_served_is_logged_once_with_what_to_do() {
    let (log, _guard) = Log::begin();
    let server = Server::start(Strict::default(), |_| {}).await;
    for _ in 0..3 {
        assert_eq!(answers(&server, &[first_call("[::1")]).await, [RST_STREAM]);
    }
    let said = log.lines("grpc.default_authority");
    assert!(said.len() == 1 && said[0].contains("calls of 127.0.0.1:"), "{said:?}");
}
