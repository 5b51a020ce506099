//! The frames that arrive on a connection.

use std::{
    fmt, io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A record of the frames that have arrived, shared by a connection's socket
/// and its driver, which are polled by the same task.
#[derive(Debug, Default)]
pub(in crate::channel) struct Received {
    seen: AtomicU8,
    /// The last GOAWAY.
    goaway: Mutex<Option<Goaway>>,
}

/// A set of kinds of frames, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameKinds(u8);

impl FrameKinds {
    /// A stream made progress: data, an end, or a reset. Not the head of a
    /// response, because a peer may send informational ones for ever.
    pub(super) const PROGRESS: Self = Self(1);
    /// Data or headers, after which servers begin to count pings anew.
    pub(super) const CONTENT: Self = Self(2);
    /// The peer has acknowledged our settings.
    pub(super) const SETTINGS_ACK: Self = Self(4);

    const NOTHING: Self = Self(0);

    /// The kinds of a frame with this type and these flags.
    #[inline]
    fn of(kind: u8, flags: u8) -> Self {
        match kind {
            DATA => Self::PROGRESS.and(Self::CONTENT),
            HEADERS if flags & END_STREAM != 0 => Self::PROGRESS.and(Self::CONTENT),
            HEADERS => Self::CONTENT,
            RST_STREAM => Self::PROGRESS,
            SETTINGS if flags & ACK != 0 => Self::SETTINGS_ACK,
            _ => Self::NOTHING,
        }
    }

    const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Received {
    fn record(&self, seen: FrameKinds) {
        // Only one task writes.
        self.seen.store(self.seen.load(Relaxed) | seen.0, Relaxed);
    }

    /// Returns whether a frame of these kinds has arrived since the last call
    /// of `take`.
    pub(super) fn take(&self, kinds: FrameKinds) -> bool {
        let seen = self.seen.load(Relaxed);
        self.seen.store(seen & !kinds.0, Relaxed);
        seen & kinds.0 != 0
    }

    /// Returns whether a frame of these kinds has arrived since the last call
    /// of `take`, without resetting it.
    pub(super) fn has(&self, kinds: FrameKinds) -> bool {
        self.seen.load(Relaxed) & kinds.0 != 0
    }

    /// The last GOAWAY that arrived.
    pub(in crate::channel) fn goaway(&self) -> Option<Goaway> {
        self.goaway.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The GOAWAY with which a peer closes a connection. `h2` has it too, but loses
/// it when the socket breaks right after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::channel) struct Goaway {
    reason: h2::Reason,
    debug_data: Box<[u8]>,
}

/// The longest part of a GOAWAY's payload that is kept, in bytes: the last
/// stream, the reason, and the start of the debug data.
const MAX_GOAWAY: usize = 8 + 128;

impl Goaway {
    pub(super) fn new(reason: h2::Reason, debug_data: &[u8]) -> Self {
        Self { reason, debug_data: debug_data.into() }
    }

    fn parse(payload: &[u8]) -> Option<Self> {
        let (_last_stream, rest) = payload.split_first_chunk::<4>()?;
        let (reason, debug_data) = rest.split_first_chunk::<4>()?;
        Some(Self::new(u32::from_be_bytes(*reason).into(), debug_data))
    }

    /// Returns whether the peer shuts down without a complaint.
    pub(in crate::channel) fn is_graceful(&self) -> bool {
        self.reason == h2::Reason::NO_ERROR
    }

    /// gRFC A8 has `too_many_pings`; other servers use other words, or none.
    pub(super) fn is_too_many_pings(&self) -> bool {
        let says_ping = || self.debug_data.to_ascii_lowercase().windows(4).any(|word| word == b"ping");
        self.reason == h2::Reason::ENHANCE_YOUR_CALM && (self.debug_data.is_empty() || says_ping())
    }
}

impl fmt::Display for Goaway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GOAWAY {:?}", self.reason)?;
        if !self.debug_data.is_empty() {
            write!(f, " ({})", self.debug_data.escape_ascii())?;
        }
        Ok(())
    }
}

/// The bytes before a frame's payload: its length, type, flags and stream.
const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
/// The flag of DATA and HEADERS that ends a stream.
const END_STREAM: u8 = 1;
/// The flag of SETTINGS that acknowledges ours.
const ACK: u8 = 1;

/// The position of a connection in the sequence of frames.
#[derive(Debug, Default)]
struct Scanner {
    /// The head of a frame, which has arrived in part.
    head: [u8; HEAD],
    head_len: usize,
    /// The bytes of a payload that are still to come.
    payload: usize,
    /// The part of a GOAWAY's payload that has arrived.
    goaway: Option<Vec<u8>>,
}

impl Scanner {
    /// Records the frames in `bytes` and returns the number that begin there.
    /// Every read passes through here: the common case, whole heads, is one
    /// short loop.
    fn scan(&mut self, bytes: &[u8], received: &Received) -> usize {
        if self.head_len > 0 || self.goaway.is_some() {
            return self.scan_parts(bytes, received);
        }
        let (mut at, mut frames, mut seen) = (self.payload, 0, FrameKinds::NOTHING);
        while let Some(head) = bytes.get(at..at + HEAD) {
            let (length, kind, flags) = parse(head);
            if kind == GOAWAY {
                break;
            }
            frames += 1;
            seen = seen.and(FrameKinds::of(kind, flags));
            at += HEAD + length;
        }
        received.record(seen);
        self.payload = at.saturating_sub(bytes.len());
        match bytes.get(at..) {
            Some(rest) if !rest.is_empty() => frames + self.scan_parts(rest, received),
            _ => frames,
        }
    }

    /// Like `scan`, where a head or a GOAWAY is split across reads.
    #[cold]
    fn scan_parts(&mut self, mut bytes: &[u8], received: &Received) -> usize {
        let mut frames = 0;
        loop {
            if self.payload > 0 {
                let (part, rest) = bytes.split_at(self.payload.min(bytes.len()));
                self.payload -= part.len();
                bytes = rest;
                if let Some(goaway) = &mut self.goaway {
                    let room = MAX_GOAWAY.saturating_sub(goaway.len());
                    goaway.extend_from_slice(&part[..part.len().min(room)]);
                }
            }
            if self.payload == 0
                && let Some(goaway) = self.goaway.take()
                && let Some(goaway) = Goaway::parse(&goaway)
            {
                *received.goaway.lock().unwrap_or_else(PoisonError::into_inner) = Some(goaway);
            }
            let (part, rest) = bytes.split_at((HEAD - self.head_len).min(bytes.len()));
            self.head[self.head_len..self.head_len + part.len()].copy_from_slice(part);
            self.head_len += part.len();
            bytes = rest;
            if self.head_len < HEAD {
                return frames;
            }
            self.head_len = 0;
            frames += 1;
            let (length, kind, flags) = parse(&self.head);
            self.payload = length;
            received.record(FrameKinds::of(kind, flags));
            self.goaway = (kind == GOAWAY).then(Vec::new);
        }
    }
}

/// The length of a frame's payload, its type and its flags.
#[inline]
fn parse(head: &[u8]) -> (usize, u8, u8) {
    let [l0, l1, l2, kind, flags, ..] = *head else { return (0, 0, 0) };
    ((u32::from_be_bytes([l0, l1, l2, kind]) >> 8) as usize, kind, flags)
}

/// The most frames that the task of a connection reads before it yields. `h2`
/// reads for as long as there is data; a flooding peer would otherwise hold a
/// thread of the runtime, and every timer with it.
const MAX_FRAMES_PER_TURN: usize = 128;

/// A socket that records its incoming frames.
pub(in crate::channel) struct ObservedIo<T> {
    io: T,
    received: Arc<Received>,
    scanner: Scanner,
    /// Frames that have arrived since a read was last pending.
    frames: usize,
}

impl<T> ObservedIo<T> {
    pub(in crate::channel) fn new(io: T, received: Arc<Received>) -> Self {
        Self { io, received, scanner: Scanner::default(), frames: 0 }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ObservedIo<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.frames >= MAX_FRAMES_PER_TURN {
            this.frames = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        match polled {
            Poll::Pending => this.frames = 0,
            Poll::Ready(_) => this.frames += this.scanner.scan(&buf.filled()[before..], &this.received),
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ObservedIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::AtomicUsize,
        task::{Wake, Waker},
    };

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, 1];
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn each_kind_of_frame_is_recognised_however_the_bytes_are_cut() {
        const PING: u8 = 6;
        let content = FrameKinds::PROGRESS.and(FrameKinds::CONTENT);
        for (kind, flags, seen) in [
            (DATA, 0, content),
            (DATA, END_STREAM, content),
            (HEADERS, END_STREAM, content),
            (HEADERS, 4, FrameKinds::CONTENT),
            (RST_STREAM, 0, FrameKinds::PROGRESS),
            (SETTINGS, 0, FrameKinds::NOTHING),
            (SETTINGS, ACK, FrameKinds::SETTINGS_ACK),
            (PING, ACK, FrameKinds::NOTHING),
            (PING, 0, FrameKinds::NOTHING),
            (8, 0, FrameKinds::NOTHING),
            (200, 255, FrameKinds::NOTHING),
        ] {
            for payload in [0, 1, 8, 100] {
                // Among bytes that would be heads if the scanner lost its place.
                let bytes = [frame(PING, 0, &[0; 9]), frame(kind, flags, &vec![0; payload])].concat();
                for size in 1..=bytes.len() {
                    let (mut scanner, received) = (Scanner::default(), Received::default());
                    let frames: usize = bytes.chunks(size).map(|part| scanner.scan(part, &received)).sum();
                    assert_eq!(frames, 2);
                    assert_eq!(
                        received.seen.load(Relaxed),
                        seen.0,
                        "{kind} {flags} {payload}, {size} at a time"
                    );
                }
            }
        }
    }

    #[test]
    fn a_goaway_is_understood_however_the_bytes_are_cut() {
        let payload = |reason: u8, text: &[u8]| [&[0, 0, 0, 1, 0, 0, 0, reason], text].concat();
        for (payload, shown, pings) in [
            (payload(0, b""), "GOAWAY NO_ERROR", false),
            (payload(0, b"max_age"), "GOAWAY NO_ERROR (max_age)", false),
            (payload(11, b"too_many_pings"), "GOAWAY ENHANCE_YOUR_CALM (too_many_pings)", true),
            (payload(11, b"Invalid_Ping_Rate"), "GOAWAY ENHANCE_YOUR_CALM (Invalid_Ping_Rate)", true),
            (payload(11, b""), "GOAWAY ENHANCE_YOUR_CALM", true),
            (payload(11, b"too many resets\n"), "GOAWAY ENHANCE_YOUR_CALM (too many resets\\n)", false),
            (payload(2, b"too_many_pings"), "GOAWAY INTERNAL_ERROR (too_many_pings)", false),
        ] {
            let bytes = [frame(GOAWAY, 0, &payload), frame(DATA, 0, b"x")].concat();
            for size in 1..=bytes.len() {
                let (mut scanner, received) = (Scanner::default(), Received::default());
                bytes.chunks(size).for_each(|part| {
                    scanner.scan(part, &received);
                });
                let goaway = received.goaway().unwrap();
                assert_eq!((goaway.to_string().as_str(), goaway.is_too_many_pings()), (shown, pings));
            }
        }
        let (mut scanner, received) = (Scanner::default(), Received::default());
        scanner.scan(&frame(GOAWAY, 0, &[0; 255]), &received);
        assert!(received.goaway().unwrap().debug_data.len() < MAX_GOAWAY);
    }

    /// Counts how often a task was woken.
    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn a_peer_that_sends_without_end_lets_others_run() {
        const PING: u8 = 6;
        let one = frame(PING, 0, &[0; 8]);
        let flood = one.repeat(10_000);
        let mut io = ObservedIo::new(&flood[..], Arc::default());
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        let mut cx = Context::from_waker(&waker);
        let (mut in_turn, mut turns) = (0, 0);
        loop {
            let mut bytes = [0; 1700];
            let mut buf = ReadBuf::new(&mut bytes);
            match Pin::new(&mut io).poll_read(&mut cx, &mut buf) {
                Poll::Ready(read) => {
                    read.unwrap();
                    if buf.filled().is_empty() {
                        break;
                    }
                    in_turn += buf.filled().len() / one.len();
                    assert!(in_turn < MAX_FRAMES_PER_TURN + 1700 / one.len(), "{in_turn}");
                }
                // It goes on in its next turn, though nothing more arrives.
                Poll::Pending => {
                    (in_turn, turns) = (0, turns + 1);
                    assert_eq!(wakes.0.load(Relaxed), turns);
                }
            }
        }
        assert!(turns > 40, "{turns}");
    }
}
