//! Hostile servers: what each does to a channel that calls it.

use super::raw_connection::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE, MAX_WINDOW, PING,
    PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, announced, field, frame, prefixed, settings_frame,
    window_update,
};

/// How many frames are written at once.
const BATCH: usize = 100;
/// The largest message that a channel takes unless it says otherwise.
const LIMIT: usize = 4 << 20;
/// The largest frame that a client takes unless it says otherwise.
const FRAME: usize = 1 << 14;

/// One hostile server. On each connection it sends `first`; to each request,
/// whose stream it is given, `answer`; and `flood` again and again from the first
/// request on.
#[derive(Debug)]
pub(crate) struct HostileServer {
    pub(crate) name: &'static str,
    /// Whether it falls silent: the channel has to give its connections up.
    pub(crate) is_mute: bool,
    pub(super) first: fn() -> Vec<u8>,
    pub(super) answer: fn(u32) -> Vec<u8>,
    pub(super) flood: Option<fn(u32) -> Vec<u8>>,
    /// Whether it acknowledges settings and answers pings.
    pub(super) is_polite: bool,
    /// Whether it closes a connection after its first answer, or at once.
    pub(super) closes: Closes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closes {
    Never,
    AtOnce,
    AfterAnswer,
}

impl HostileServer {
    /// One that answers no request.
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            is_mute: false,
            first: || settings_frame(&[]),
            answer: |_| Vec::new(),
            flood: None,
            is_polite: true,
            closes: Closes::Never,
        }
    }

    const fn mute(name: &'static str, first: fn() -> Vec<u8>) -> Self {
        Self { is_mute: true, is_polite: false, first, ..Self::new(name) }
    }

    /// One whose bytes are no HTTP/2.
    const fn foreign(name: &'static str, first: fn() -> Vec<u8>, closes: Closes) -> Self {
        Self { is_polite: false, first, closes, ..Self::new(name) }
    }

    const fn settings(name: &'static str, first: fn() -> Vec<u8>) -> Self {
        Self { first, answer: well, ..Self::new(name) }
    }

    const fn answers(name: &'static str, answer: fn(u32) -> Vec<u8>) -> Self {
        Self { answer, ..Self::new(name) }
    }

    const fn closing(name: &'static str, answer: fn(u32) -> Vec<u8>) -> Self {
        Self { answer, closes: Closes::AfterAnswer, ..Self::new(name) }
    }

    const fn floods(name: &'static str, answer: fn(u32) -> Vec<u8>, flood: fn(u32) -> Vec<u8>) -> Self {
        Self { answer, flood: Some(flood), ..Self::new(name) }
    }
}

/// Every one.
pub(crate) const ALL: &[HostileServer] = &[
    HostileServer::mute("says nothing", Vec::new),
    HostileServer::mute("half of its settings", || vec![0, 0, 6, SETTINGS]),
    HostileServer::mute("settings and no acknowledgement", || settings_frame(&[])),
    HostileServer::mute("answers no call and no ping", || {
        [settings_frame(&[]), frame(SETTINGS, ACK, 0, &[])].concat()
    }),
    HostileServer::new("answers no call"),
    HostileServer::foreign("closes at once", Vec::new, Closes::AtOnce),
    HostileServer::foreign("a page of HTTP/1.1", page, Closes::AtOnce),
    HostileServer::foreign("a page of HTTP/1.1 that stays", page, Closes::Never),
    HostileServer::foreign("no HTTP/2 at all", || vec![0x5a; 1 << 16], Closes::Never),
    HostileServer::foreign("a frame of 16 MiB", || vec![0xff; 1 << 20], Closes::Never),
    HostileServer::settings("a table of 4 GiB", || settings_frame(&[(1, u32::MAX)])),
    HostileServer::settings("a frame size that is none", || settings_frame(&[(5, 1)])),
    HostileServer::settings("no streams allowed", || settings_frame(&[(3, 0)])),
    HostileServer::settings("no window", || settings_frame(&[(INITIAL_WINDOW_SIZE, 0)])),
    HostileServer::settings("a window that is none", || settings_frame(&[(INITIAL_WINDOW_SIZE, u32::MAX)])),
    HostileServer::settings("a GOAWAY at once", || [settings_frame(&[]), goaway(0, &[])].concat()),
    HostileServer::closing("closed with each answer", well),
    HostileServer::closing("closed in each answer", started),
    HostileServer::closing("a GOAWAY of 16 KiB", |_| goaway(0, &[b'x'; FRAME - 8])),
    HostileServer::answers("each call refused", |stream| frame(RST_STREAM, 0, stream, &[0, 0, 0, 7])),
    HostileServer::answers("each call reset in its answer", |stream| {
        [started(stream), frame(RST_STREAM, 0, stream, &[0, 0, 0, 2])].concat()
    }),
    HostileServer::answers("a head and no more", head),
    HostileServer::answers("a message whose end does not come", |stream| {
        [head(stream), data(stream, &[announced(LIMIT - 64), vec![0; FRAME - 5]].concat())].concat()
    }),
    HostileServer::answers("4 GiB announced", |stream| {
        [head(stream), data(stream, &announced(usize::MAX))].concat()
    }),
    HostileServer::answers("answers of 4 MiB", large),
    HostileServer::answers("above the window", |stream| {
        [head(stream), data(stream, &[0; FRAME]).repeat((3 << 20) / FRAME)].concat()
    }),
    HostileServer::answers("gzip that was not asked for", |stream| {
        let head = [head_block(), field("grpc-encoding", "gzip")].concat();
        let message = [&[1][..], &announced(64)[1..], &[0x1f; 64]].concat();
        [frame(HEADERS, END_HEADERS, stream, &head), data(stream, &message), trailers(stream)].concat()
    }),
    HostileServer::answers("a status of 60 KiB", |stream| {
        let message = field("grpc-message", &"x".repeat(60_000));
        split_head(stream, &[head_block(), field("grpc-status", "13"), message].concat())
    }),
    HostileServer::answers("2,000 fields", |stream| {
        let fields = (0..2_000).flat_map(|n| field(&format!("x-{n}"), "and its value"));
        split_head(stream, &head_block().into_iter().chain(fields).collect::<Vec<_>>())
    }),
    HostileServer::answers("trailers of 1 MiB", |stream| {
        let fields: Vec<u8> = (0..1_000).flat_map(|n| field(&format!("x-{n}"), &"y".repeat(1_000))).collect();
        [head(stream), split_head(stream, &fields)].concat()
    }),
    HostileServer::answers("a pushed stream", |stream| {
        frame(PUSH_PROMISE, END_HEADERS, stream, &[&[0, 0, 0, 2][..], &head_block()].concat())
    }),
    HostileServer::answers("a stream of the server's", |_| head(2)),
    HostileServer::answers("an answer to nobody", |stream| started(stream + 2_000)),
    HostileServer::answers("two heads", |stream| [head(stream), head(stream), trailers(stream)].concat()),
    HostileServer::floods("settings", well, |_| {
        settings_frame(&[(1, 4_096), (INITIAL_WINDOW_SIZE, 65_535)]).repeat(BATCH)
    }),
    HostileServer::floods("windows up and down", well, |_| {
        let [least, most] = [1, MAX_WINDOW].map(|window| settings_frame(&[(INITIAL_WINDOW_SIZE, window)]));
        [least, most].concat().repeat(BATCH)
    }),
    HostileServer::floods("pings", well, |_| frame(PING, 0, 0, &[1; 8]).repeat(BATCH)),
    HostileServer::floods("GOAWAYs", head, |_| goaway(u32::MAX >> 1, b"and another").repeat(BATCH)),
    HostileServer::floods("window updates", well, |_| window_update(0, 1).repeat(BATCH)),
    HostileServer::floods("resets of what has ended", well, |stream| {
        frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]).repeat(BATCH)
    }),
    HostileServer::floods("empty DATA", head, |stream| data(stream, &[]).repeat(BATCH)),
    HostileServer::floods("frames of a byte", begun, |stream| data(stream, &[0]).repeat(BATCH)),
    HostileServer::floods("messages without end", head, |stream| {
        data(stream, &prefixed(&[0; 64]).repeat(BATCH))
    }),
    HostileServer::floods(
        "informational heads",
        |_| Vec::new(),
        |stream| frame(HEADERS, END_HEADERS, stream, &[0x08, 3, b'1', b'0', b'3']).repeat(BATCH),
    ),
    HostileServer::floods(
        "a head without end",
        |stream| frame(HEADERS, 0, stream, &head_block()),
        |stream| frame(CONTINUATION, 0, stream, &field("x-more", "and more of it")).repeat(BATCH),
    ),
    HostileServer::floods("priority and unknown frames", well, |stream| {
        [frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 200]).repeat(BATCH), frame(0xee, 0xff, stream, &[7; FRAME])]
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

fn page() -> Vec<u8> {
    b"HTTP/1.1 400 Bad Request\r\ncontent-length: 5\r\n\r\nsorry".to_vec()
}

/// `:status: 200` by its index, and what the content is.
fn head_block() -> Vec<u8> {
    [vec![0x88], field("content-type", "application/grpc")].concat()
}

fn head(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &head_block())
}

fn data(stream: u32, payload: &[u8]) -> Vec<u8> {
    frame(DATA, 0, stream, payload)
}

fn trailers(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &field("grpc-status", "0"))
}

/// A good answer.
fn well(stream: u32) -> Vec<u8> {
    [head(stream), data(stream, &prefixed(&[])), trailers(stream)].concat()
}

/// The first half of a message.
fn started(stream: u32) -> Vec<u8> {
    [head(stream), data(stream, &[announced(100), vec![0; 50]].concat())].concat()
}

/// A message of the limit, of which nothing has come.
fn begun(stream: u32) -> Vec<u8> {
    [head(stream), data(stream, &announced(LIMIT - 64))].concat()
}

/// A good answer as large as may be.
fn large(stream: u32) -> Vec<u8> {
    // An unknown field of protobuf, as long as a message may be.
    let length = LIMIT - 16;
    let mut message = announced(length + 5);
    message.extend([0x7a, 0xf0, 0xff, 0xff, 0x01]);
    message.resize(message.len() + length, 0);
    let body = message.chunks(FRAME).flat_map(|piece| data(stream, piece));
    head(stream).into_iter().chain(body).chain(trailers(stream)).collect()
}

/// A block in as many frames as it needs.
fn split_head(stream: u32, block: &[u8]) -> Vec<u8> {
    let pieces = block.chunks(FRAME).enumerate().map(|(n, piece)| {
        let kind = if n == 0 { HEADERS } else { CONTINUATION };
        let end_stream = if n == 0 { END_STREAM } else { 0 };
        let end_headers = if (n + 1) * FRAME >= block.len() { END_HEADERS } else { 0 };
        frame(kind, end_stream | end_headers, stream, piece)
    });
    pieces.flatten().collect()
}

fn goaway(last: u32, debug: &[u8]) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[&last.to_be_bytes()[..], &[0; 4], debug].concat())
}
