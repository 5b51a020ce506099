//! The kinds of hostile servers.

use super::raw_connection::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE, MAX_WINDOW, PING,
    PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, field, frame, message_prefix, prefixed, settings_frame,
    window_update,
};

/// The number of frames per write.
const BATCH: usize = 100;
/// The default message size limit of a channel.
const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// The default frame size limit of a client.
const MAX_FRAME_BYTES: usize = 1 << 14;

/// A hostile server. It sends `greeting` on each connection, the bytes of
/// `respond` to each request on its stream, and those of `flood` repeatedly from
/// the first request on.
#[derive(Debug)]
pub(crate) struct HostileServer {
    pub(crate) name: &'static str,
    /// True if it stops sending: the channel has to close its connections.
    pub(crate) is_mute: bool,
    pub(super) greeting: fn() -> Vec<u8>,
    pub(super) respond: fn(u32) -> Vec<u8>,
    pub(super) flood: Option<fn(u32) -> Vec<u8>>,
    /// True if it acknowledges settings and pings.
    pub(super) sends_acks: bool,
    /// The point at which it closes a connection.
    pub(super) closes: Closes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closes {
    Never,
    AfterGreeting,
    AfterResponse,
}

impl HostileServer {
    /// A server that responds to no request.
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            is_mute: false,
            greeting: || settings_frame(&[]),
            respond: |_| Vec::new(),
            flood: None,
            sends_acks: true,
            closes: Closes::Never,
        }
    }

    const fn mute(name: &'static str, greeting: fn() -> Vec<u8>) -> Self {
        Self { is_mute: true, sends_acks: false, greeting, ..Self::new(name) }
    }

    /// A server that does not speak HTTP/2.
    const fn not_http2(name: &'static str, greeting: fn() -> Vec<u8>, closes: Closes) -> Self {
        Self { sends_acks: false, greeting, closes, ..Self::new(name) }
    }

    const fn settings(name: &'static str, greeting: fn() -> Vec<u8>) -> Self {
        Self { greeting, respond: normal_response, ..Self::new(name) }
    }

    const fn responds(name: &'static str, respond: fn(u32) -> Vec<u8>) -> Self {
        Self { respond, ..Self::new(name) }
    }

    const fn closing(name: &'static str, respond: fn(u32) -> Vec<u8>) -> Self {
        Self { respond, closes: Closes::AfterResponse, ..Self::new(name) }
    }

    const fn floods(name: &'static str, respond: fn(u32) -> Vec<u8>, flood: fn(u32) -> Vec<u8>) -> Self {
        Self { respond, flood: Some(flood), ..Self::new(name) }
    }
}

/// All hostile servers.
pub(crate) const ALL: &[HostileServer] = &[
    HostileServer::mute("says nothing", Vec::new),
    HostileServer::mute("half of its settings", || vec![0, 0, 6, SETTINGS]),
    HostileServer::mute("settings and no acknowledgement", || settings_frame(&[])),
    HostileServer::mute("answers no call and no ping", || {
        [settings_frame(&[]), frame(SETTINGS, ACK, 0, &[])].concat()
    }),
    HostileServer::new("answers no call"),
    HostileServer::not_http2("closes at once", Vec::new, Closes::AfterGreeting),
    HostileServer::not_http2("a page of HTTP/1.1", http1_response, Closes::AfterGreeting),
    HostileServer::not_http2("a page of HTTP/1.1 that stays", http1_response, Closes::Never),
    HostileServer::not_http2("no HTTP/2 at all", || vec![0x5a; 1 << 16], Closes::Never),
    HostileServer::not_http2("a frame of 16 MiB", || vec![0xff; 1 << 20], Closes::Never),
    HostileServer::settings("a table of 4 GiB", || settings_frame(&[(1, u32::MAX)])),
    HostileServer::settings("a frame size that is none", || settings_frame(&[(5, 1)])),
    HostileServer::settings("no streams allowed", || settings_frame(&[(3, 0)])),
    HostileServer::settings("no window", || settings_frame(&[(INITIAL_WINDOW_SIZE, 0)])),
    HostileServer::settings("a window that is none", || settings_frame(&[(INITIAL_WINDOW_SIZE, u32::MAX)])),
    HostileServer::settings("a GOAWAY at once", || [settings_frame(&[]), goaway(0, &[])].concat()),
    HostileServer::closing("closed with each answer", normal_response),
    HostileServer::closing("closed in each answer", half_message),
    HostileServer::closing("a GOAWAY of 16 KiB", |_| goaway(0, &[b'x'; MAX_FRAME_BYTES - 8])),
    HostileServer::responds("each call refused", |stream| frame(RST_STREAM, 0, stream, &[0, 0, 0, 7])),
    HostileServer::responds("each call reset in its answer", |stream| {
        [half_message(stream), frame(RST_STREAM, 0, stream, &[0, 0, 0, 2])].concat()
    }),
    HostileServer::responds("a head and no more", headers),
    HostileServer::responds("a message whose end does not come", |stream| {
        [
            headers(stream),
            data(stream, &[message_prefix(MAX_MESSAGE_BYTES - 64), vec![0; MAX_FRAME_BYTES - 5]].concat()),
        ]
        .concat()
    }),
    HostileServer::responds("4 GiB announced", |stream| {
        [headers(stream), data(stream, &message_prefix(usize::MAX))].concat()
    }),
    HostileServer::responds("answers of 4 MiB", large_response),
    HostileServer::responds("above the window", |stream| {
        [headers(stream), data(stream, &[0; MAX_FRAME_BYTES]).repeat((3 << 20) / MAX_FRAME_BYTES)].concat()
    }),
    HostileServer::responds("gzip that was not asked for", |stream| {
        let headers = [response_headers(), field("grpc-encoding", "gzip")].concat();
        let message = [&[1][..], &message_prefix(64)[1..], &[0x1f; 64]].concat();
        [frame(HEADERS, END_HEADERS, stream, &headers), data(stream, &message), trailers(stream)].concat()
    }),
    HostileServer::responds("a status of 60 KiB", |stream| {
        let message = field("grpc-message", &"x".repeat(60_000));
        split_head(stream, &[response_headers(), field("grpc-status", "13"), message].concat())
    }),
    HostileServer::responds("2,000 fields", |stream| {
        let fields = (0..2_000).flat_map(|n| field(&format!("x-{n}"), "and its value"));
        split_head(stream, &response_headers().into_iter().chain(fields).collect::<Vec<_>>())
    }),
    HostileServer::responds("trailers of 1 MiB", |stream| {
        let fields: Vec<u8> = (0..1_000).flat_map(|n| field(&format!("x-{n}"), &"y".repeat(1_000))).collect();
        [headers(stream), split_head(stream, &fields)].concat()
    }),
    HostileServer::responds("a pushed stream", |stream| {
        frame(PUSH_PROMISE, END_HEADERS, stream, &[&[0, 0, 0, 2][..], &response_headers()].concat())
    }),
    HostileServer::responds("a stream of the server's", |_| headers(2)),
    HostileServer::responds("an answer to nobody", |stream| half_message(stream + 2_000)),
    HostileServer::responds("two heads", |stream| {
        [headers(stream), headers(stream), trailers(stream)].concat()
    }),
    HostileServer::floods("settings", normal_response, |_| {
        settings_frame(&[(1, 4_096), (INITIAL_WINDOW_SIZE, 65_535)]).repeat(BATCH)
    }),
    HostileServer::floods("windows up and down", normal_response, |_| {
        let [least, most] = [1, MAX_WINDOW].map(|window| settings_frame(&[(INITIAL_WINDOW_SIZE, window)]));
        [least, most].concat().repeat(BATCH)
    }),
    HostileServer::floods("pings", normal_response, |_| frame(PING, 0, 0, &[1; 8]).repeat(BATCH)),
    HostileServer::floods("GOAWAYs", headers, |_| goaway(u32::MAX >> 1, b"and another").repeat(BATCH)),
    HostileServer::floods("window updates", normal_response, |_| window_update(0, 1).repeat(BATCH)),
    HostileServer::floods("resets of what has ended", normal_response, |stream| {
        frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]).repeat(BATCH)
    }),
    HostileServer::floods("empty DATA", headers, |stream| data(stream, &[]).repeat(BATCH)),
    HostileServer::floods("frames of a byte", announced_message, |stream| data(stream, &[0]).repeat(BATCH)),
    HostileServer::floods("messages without end", headers, |stream| {
        data(stream, &prefixed(&[0; 64]).repeat(BATCH))
    }),
    HostileServer::floods(
        "informational heads",
        |_| Vec::new(),
        |stream| frame(HEADERS, END_HEADERS, stream, &[0x08, 3, b'1', b'0', b'3']).repeat(BATCH),
    ),
    HostileServer::floods(
        "a head without end",
        |stream| frame(HEADERS, 0, stream, &response_headers()),
        |stream| frame(CONTINUATION, 0, stream, &field("x-more", "and more of it")).repeat(BATCH),
    ),
    HostileServer::floods("priority and unknown frames", normal_response, |stream| {
        [
            frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 200]).repeat(BATCH),
            frame(0xee, 0xff, stream, &[7; MAX_FRAME_BYTES]),
        ]
        .concat()
    }),
];

/// The server of that name.
///
/// # Errors
/// When there is none.
pub(crate) fn parse(name: &str) -> Result<&'static HostileServer, String> {
    ALL.iter()
        .find(|server| server.name == name)
        .ok_or_else(|| format!("there is no hostile server `{name}`"))
}

fn http1_response() -> Vec<u8> {
    b"HTTP/1.1 400 Bad Request\r\ncontent-length: 5\r\n\r\nsorry".to_vec()
}

/// A header block with `:status: 200` and the content type.
fn response_headers() -> Vec<u8> {
    [vec![0x88], field("content-type", "application/grpc")].concat()
}

fn headers(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &response_headers())
}

fn data(stream: u32, payload: &[u8]) -> Vec<u8> {
    frame(DATA, 0, stream, payload)
}

fn trailers(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &field("grpc-status", "0"))
}

/// A normal response.
fn normal_response(stream: u32) -> Vec<u8> {
    [headers(stream), data(stream, &prefixed(&[])), trailers(stream)].concat()
}

/// The first half of a message.
fn half_message(stream: u32) -> Vec<u8> {
    [headers(stream), data(stream, &[message_prefix(100), vec![0; 50]].concat())].concat()
}

/// The prefix of a message of the limit, without the message.
fn announced_message(stream: u32) -> Vec<u8> {
    [headers(stream), data(stream, &message_prefix(MAX_MESSAGE_BYTES - 64))].concat()
}

/// A normal response of the largest size.
fn large_response(stream: u32) -> Vec<u8> {
    // An unknown field of protobuf, as long as a message may be.
    let length = MAX_MESSAGE_BYTES - 16;
    let mut message = message_prefix(length + 5);
    message.extend([0x7a, 0xf0, 0xff, 0xff, 0x01]);
    message.resize(message.len() + length, 0);
    let body = message.chunks(MAX_FRAME_BYTES).flat_map(|piece| data(stream, piece));
    headers(stream).into_iter().chain(body).chain(trailers(stream)).collect()
}

/// A header block in as many frames as it needs.
fn split_head(stream: u32, block: &[u8]) -> Vec<u8> {
    let pieces = block.chunks(MAX_FRAME_BYTES).enumerate().map(|(n, piece)| {
        let kind = if n == 0 { HEADERS } else { CONTINUATION };
        let end_stream = if n == 0 { END_STREAM } else { 0 };
        let end_headers = if (n + 1) * MAX_FRAME_BYTES >= block.len() { END_HEADERS } else { 0 };
        frame(kind, end_stream | end_headers, stream, piece)
    });
    pieces.flatten().collect()
}

fn goaway(last: u32, debug: &[u8]) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[&last.to_be_bytes()[..], &[0; 4], debug].concat())
}
