//! A peer that attacks takes nothing from the others.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{Reason, client::Builder};
use registry_client::server::{MethodState, ServerState};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tonic::Code;

use crate::{
    authority::{frame as raw, literal},
    faults::gzipped,
    scripted::{Connection, frame},
    server::{Running, within},
    strict::prefixed,
};

const ECHO: &str = "test.v1.Scripted/Echo";
const LARGE: &str = "test.v1.Scripted/Large";
const TICKS: &str = "test.v1.Scripted/Ticks";
const REFLECTION: &str = "grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const MIB: usize = 1 << 20;

/// A socket from an address of its own.
pub(crate) async fn from(last: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// A connection of an attacker, with an address of its own.
async fn attacker(to: SocketAddr, settings: &Builder) -> Connection {
    Connection::over(from(66, to).await, settings).await
}

fn echo_state(server: &Running) -> MethodState {
    server.state().admission.into_iter().find(|method| method.method == ECHO).unwrap()
}

fn under_way(state: &ServerState) -> usize {
    state.admission.iter().map(|method| method.under_way).sum()
}

/// Waits until the server's state satisfies the condition.
async fn until(server: &Running, what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what}: {:?}", server.state());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Every one of a hundred honest calls gets its response.
async fn honest_calls_are_answered(server: &Running) {
    let connection = Connection::open(server.address).await;
    for _ in 0..100 {
        assert_eq!(within(connection.echo()).await, "hello");
    }
}

#[tokio::test]
async fn headers_without_a_message_hold_no_place() {
    let server = Running::described(|config| config.receive_timeout = Duration::from_secs(2)).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let connection = attacker(server.address, &Builder::new()).await;
        for n in 0..600 {
            // Nothing at all, a part of a prefix, or a prefix alone.
            let body = [None, Some(&b"\0\0"[..]), Some(&b"\0\0\0\0\x05"[..])][n % 3];
            held.push(connection.open_call(ECHO, body.map(Bytes::from_static)).await.unwrap());
        }
    }
    until(&server, "all are open", || server.state().streams >= 1_200).await;
    assert_eq!(echo_state(&server).under_way, 0);
    honest_calls_are_answered(&server).await;
    assert_eq!(echo_state(&server).refused, 0);
    // Each gets a status, and none is left.
    for (response, _stream) in held {
        let head = within(response).await.unwrap();
        assert_eq!(head.headers()["grpc-status"], (Code::DeadlineExceeded as i32).to_string());
    }
    until(&server, "none is open", || server.state().streams == 0).await;
}

#[tokio::test]
async fn bodies_that_never_end_hold_no_more_bytes_than_the_share_of_their_peer() {
    let server = Running::described(|config| {
        config.max_buffered_bytes = 12 * MIB;
        config.receive_timeout = Duration::from_secs(3);
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..4 {
        let connection = attacker(server.address, &Builder::new()).await;
        for _ in 0..50 {
            // Announces 1 MiB and sends half of it.
            let mut body = vec![0, 0, 0x10, 0, 0];
            body.resize(MIB / 2, b'x');
            held.push(connection.open_call(ECHO, Some(body.into())).await.unwrap());
        }
    }
    until(&server, "as much as may be is held", || server.state().buffered_bytes >= 4 * MIB).await;
    honest_calls_are_answered(&server).await;
    // One more message of an honest peer finds room.
    let honest = Connection::open(server.address).await;
    let (response, mut stream) =
        honest.open_call(ECHO, Some(frame(&"y".repeat(MIB)).slice(..MIB / 2))).await.unwrap();
    stream.send_data(frame(&"y".repeat(MIB)).slice(MIB / 2..), true).unwrap();
    assert_eq!(within(response).await.unwrap().headers().get("grpc-status"), None);
    let most = server.state().buffered_bytes;
    assert!(most <= 7 * MIB + 64, "{most}");
    drop((held, stream));
    until(&server, "nothing is held", || server.state().buffered_bytes == 0).await;
}

#[tokio::test]
async fn an_answer_that_nobody_takes_is_under_way_and_is_cut_off() {
    let server = Running::described(|config| {
        config.max_buffered_bytes = 6 * MIB;
        config.send_timeout = Duration::from_secs(1);
    })
    .await;
    let connection = attacker(server.address, Builder::new().initial_window_size(0)).await;
    let (mut held, mut reasons) = (Vec::new(), Vec::new());
    for _ in 0..80 {
        let (response, mut stream) = connection.open_call(LARGE, None).await.unwrap();
        stream.send_data(frame(&"hello".to_owned()), true).unwrap();
        match within(response).await {
            Ok(head) => held.push(head.into_body()),
            Err(error) => reasons.push(error.reason().unwrap()),
        }
    }
    let state = server.state();
    assert!((MIB..=3 * MIB).contains(&state.buffered_bytes), "{state:?}");
    assert!(under_way(&state) >= 8, "{state:?}");
    honest_calls_are_answered(&server).await;
    for mut body in held {
        let error = within(body.data()).await.unwrap().unwrap_err();
        reasons.push(error.reason().unwrap());
    }
    // For some there was no room, the others were not taken in time.
    assert!(reasons.contains(&Reason::ENHANCE_YOUR_CALM) && reasons.contains(&Reason::CANCEL), "{reasons:?}");
    until(&server, "nothing is held", || {
        let state = server.state();
        (state.buffered_bytes, state.streams, under_way(&state)) == (0, 0, 0)
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_reads_its_rejections_late_is_slowed_down_and_not_cut_off() {
    const CALLS: usize = 900;
    // Accepted sockets have the listener's buffer: some 20 rejections fill it.
    let listener = TcpSocket::new_v4().unwrap();
    listener.set_send_buffer_size(4096).unwrap();
    listener.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let server = Running::described_on(listener.listen(16).unwrap(), |config| {
        let admission = config.admission.get_or_insert_default();
        (admission.min, admission.max, admission.initial, admission.queue) = (1, 1, 1, 0);
    });
    let other = attacker(server.address, Builder::new().initial_window_size(0)).await;
    let (response, mut stream) = other.open_call(ECHO, None).await.unwrap();
    stream.send_data(frame(&"hello".to_owned()), true).unwrap();
    let _held = within(response).await.unwrap();

    let path = format!("/{ECHO}");
    let fields = [vec![0x83, 0x86], literal(":path", &path), literal("content-type", "application/grpc")];
    let call =
        |stream: u32| [raw(1, 4, stream, &fields.concat()), raw(0, 1, stream, &prefixed(0, &[]))].concat();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // No header table, so that each rejection takes its whole length.
    bytes.extend(raw(4, 0, 0, &[0, 1, 0, 0, 0, 0]));
    bytes.extend((1..).step_by(2).take(CALLS).flat_map(call));
    let peer = TcpSocket::new_v4().unwrap();
    peer.set_recv_buffer_size(4096).unwrap();
    let mut peer = peer.connect(server.address).await.unwrap();
    let (read, mut write) = peer.split();
    let answers = async {
        let refused = || server.state().admission.iter().map(|method| method.refused).sum::<u64>();
        let (mut before, mut since) = (0, Instant::now());
        until(&server, "the server has stopped reading", || {
            let now = refused();
            if now != before {
                (before, since) = (now, Instant::now());
            }
            now > 0 && since.elapsed() > Duration::from_millis(500)
        })
        .await;
        let mut read = BufReader::new(read);
        let mut answered = 0;
        while answered < CALLS {
            let mut head = [0; 9];
            read.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            read.read_exact(&mut vec![0; length as usize]).await.unwrap();
            // The head of a response, which is all of it.
            answered += usize::from((head[3], head[4] & 1) == (1, 1));
        }
    };
    let ((), written) = within(async { tokio::join!(answers, write.write_all(&bytes)) }).await;
    written.unwrap();
}

#[tokio::test]
async fn streams_above_the_share_of_a_peer_are_refused() {
    let server = Running::described(|config| config.max_streams = 300).await;
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..4 {
        let connection = attacker(server.address, &Builder::new()).await;
        for _ in 0..100 {
            let (response, stream) =
                connection.open_call(TICKS, Some(frame(&"hello".to_owned()))).await.unwrap();
            held.push((tokio::spawn(response), stream));
        }
        until(&server, "the calls have come", || server.state().streams >= 70).await;
    }
    for (response, _stream) in &mut held {
        if let Ok(Ok(Err(error))) = timeout(Duration::from_millis(20), response).await {
            assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM), "{error}");
            refused += 1;
        }
    }
    assert!(refused >= 200, "{refused}");
    assert!(server.state().streams <= 150, "{:?}", server.state());
    honest_calls_are_answered(&server).await;
}

#[tokio::test]
async fn idle_connections_of_one_peer_make_room_for_others_and_for_its_own() {
    let server = Running::start(|config| config.max_connections = 40).await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(attacker(server.address, &Builder::new()).await);
    }
    until(&server, "half is taken", || server.state().connections >= 20).await;
    honest_calls_are_answered(&server).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    // Its own health check, for instance.
    let newest = attacker(server.address, &Builder::new()).await;
    assert_eq!(within(newest.echo()).await, "hello");
    within(idle[0].until_closed()).await;
    assert!(idle[19].is_usable().await);
}

#[tokio::test]
async fn a_socket_that_says_nothing_is_closed_when_another_needs_its_place() {
    let server = Running::start(|config| config.max_connections = 4).await;
    let mut mute = from(66, server.address).await;
    let _other = from(66, server.address).await;
    until(&server, "both are open", || server.state().connections == 2).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let newest = attacker(server.address, &Builder::new()).await;
    assert_eq!(within(newest.echo()).await, "hello");
    let read = within(mute.read_to_end(&mut Vec::new())).await;
    assert!(read.is_ok_and(|read| read < 100));
}

#[tokio::test]
async fn a_connection_without_calls_is_sent_goaway_and_one_with_a_stream_is_not() {
    let server = Running::start(|config| config.max_connection_idle = Some(Duration::from_millis(300))).await;
    let (idle, busy) = (Connection::open(server.address).await, Connection::open(server.address).await);
    let mut ticks = within(busy.begin(TICKS, &[])).await.unwrap();
    assert_eq!(ticks.message().await.unwrap().unwrap(), "hello");
    within(idle.until_closed()).await;
    assert_eq!(within(busy.echo()).await, "hello");
}

#[tokio::test]
async fn a_message_in_small_frames_is_read_whole() {
    let server = Running::described(|_| {}).await;
    let connection = Connection::open(server.address).await;
    let message = frame(&"z".repeat(20_000));
    let (response, mut stream) = connection.open_call(ECHO, None).await.unwrap();
    for (at, piece) in message.chunks(100).enumerate() {
        let is_last = (at + 1) * 100 >= message.len();
        stream.send_data(Bytes::copy_from_slice(piece), is_last).unwrap();
    }
    let head = within(response).await.unwrap();
    assert_eq!(head.headers().get("grpc-status"), None);
    let mut body = head.into_body();
    let mut answered = Vec::new();
    while let Some(data) = within(body.data()).await {
        answered.extend(data.unwrap());
    }
    assert_eq!(answered, message);
}

#[tokio::test]
async fn the_built_in_services_take_only_a_name_and_repeat_little_of_it() {
    let server = Running::start(|_| {}).await;
    let connection = Connection::open(server.address).await;
    for (size, code) in [(60_000, Code::NotFound), (70_000, Code::ResourceExhausted)] {
        let (response, mut stream) = connection.open_call("grpc.health.v1.Health/Check", None).await.unwrap();
        stream.send_data(frame(&"n".repeat(size)), true).unwrap();
        let head = within(response).await.unwrap();
        assert_eq!(head.headers()["grpc-status"], (code as i32).to_string());
        assert!(head.headers()["grpc-message"].len() <= 1_024);
    }
}

#[tokio::test]
async fn long_decompression_gives_way_to_the_calls_of_others() {
    const BOMBS: usize = 32;
    let server = Running::described(|_| {}).await;
    let connection = attacker(server.address, &Builder::new()).await;
    let bomb = prefixed(1, &gzipped(&vec![0; 4 * MIB - 64]));
    let ended = Arc::new(AtomicUsize::new(0));
    let bombs: Vec<_> = (0..BOMBS)
        .map(|_| {
            let (connection, bomb, ended) = (connection.clone(), bomb.clone(), ended.clone());
            tokio::spawn(async move {
                let status = connection.send_whole(ECHO, &[("grpc-encoding", "gzip")], bomb).await;
                ended.fetch_add(1, SeqCst);
                status
            })
        })
        .collect();
    let honest = Connection::open(server.address).await;
    until(&server, "they have come", || server.state().streams > 0 || ended.load(SeqCst) > 0).await;
    let before = ended.load(SeqCst);
    for _ in 0..10 {
        assert_eq!(within(honest.echo()).await, "hello");
    }
    assert!(ended.load(SeqCst) - before <= BOMBS / 2, "{before} and then {ended:?}");
    for bomb in bombs {
        // Zeros are no message.
        assert_eq!(bomb.await.unwrap().unwrap().code(), Code::InvalidArgument);
    }
    until(&server, "nothing is held", || server.state().buffered_bytes == 0).await;
}

#[tokio::test]
async fn what_no_handler_reads_counts_where_a_peer_has_many_connections() {
    let server = Running::start(|config| config.max_buffered_bytes = 4 * MIB).await;
    let request = prefixed(0, b"\x3a\0");
    let more = Bytes::from(request.repeat((200 << 10) / request.len()));
    let mut held = Vec::new();
    for _ in 0..60 {
        // Its responses are not taken, so that the handler does not read on.
        let connection = attacker(server.address, Builder::new().initial_window_size(0)).await;
        let (response, mut stream) = connection.open_call(REFLECTION, Some(request.clone())).await.unwrap();
        // Some are closed at once: there is no room any more.
        if within(response).await.is_ok() && stream.send_data(more.clone(), false).is_ok() {
            held.push((connection, stream));
        }
    }
    until(&server, "some are closed", || server.state().connections < 50).await;
    assert!(server.state().buffered_bytes <= 2 * MIB + (256 << 10), "{:?}", server.state());
    honest_calls_are_answered(&server).await;
    drop(held);
    until(&server, "nothing is held", || server.state().buffered_bytes == 0).await;
}
