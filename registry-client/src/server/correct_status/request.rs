//! The progress of reading a request, by the prefixes of its messages.

use std::{
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;

/// The length of a message's prefix: a flag for compression, and the length in
/// four bytes.
const PREFIX_LEN: usize = 5;

const BEGUN: u8 = 1;
const COMPLETE: u8 = 2;
const ENDED: u8 = 4;
const PLAIN: u8 = 8;
const AT_PREFIX: u8 = 16;

/// The progress of reading a request; shared with the future of its response.
#[derive(Debug, Default)]
pub(super) struct Progress(AtomicU8);

/// The parts of a request that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReadProgress {
    /// At least one message has begun.
    pub(super) begun: bool,
    /// Every message that has begun is complete.
    pub(super) complete: bool,
    /// The reader knows that no further message follows.
    pub(super) ended: bool,
    /// Of a client stream: the last message has begun, and the reader has not
    /// polled for it. A reader that accepts it does so at once.
    pub(super) at_prefix: bool,
    /// The last message is not compressed, by its flag.
    pub(super) plain: bool,
}

impl Progress {
    pub(super) fn now(&self) -> ReadProgress {
        let bits = self.0.load(Relaxed);
        let has = |bit| bits & bit != 0;
        ReadProgress {
            begun: has(BEGUN),
            complete: has(COMPLETE),
            ended: has(ENDED),
            at_prefix: has(AT_PREFIX),
            plain: has(PLAIN),
        }
    }
}

pin_project! {
    /// A request body that tracks its messages. Fails with INTERNAL at the
    /// second message of a unary request; passes on a message of a stream
    /// separately from its prefix, so that it is known which message a reader
    /// rejected by its length.
    #[derive(Debug)]
    pub(in crate::server) struct TrackedRequest<B> {
        #[pin]
        body: B,
        prefixes: PrefixReader,
        // Data that has arrived and was not passed on.
        held_back: Bytes,
        progress: Arc<Progress>,
    }
}

impl<B> TrackedRequest<B> {
    /// A body of a `unary` request or of a stream.
    pub(super) fn new(body: B, unary: bool, progress: Arc<Progress>) -> Self {
        Self {
            body,
            prefixes: PrefixReader { unary, ..PrefixReader::default() },
            held_back: Bytes::new(),
            progress,
        }
    }
}

impl<B> Body for TrackedRequest<B>
where
    B: Body<Data = Bytes, Error = Status>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        let polled = if this.held_back.is_empty() {
            ready!(this.body.poll_frame(cx))
        } else {
            Some(Ok(Frame::data(mem::take(this.held_back))))
        };
        let ended = || this.progress.0.fetch_or(ENDED, Relaxed);
        Poll::Ready(match polled {
            Some(Ok(frame)) => Some(match frame.into_data() {
                Ok(mut data) => {
                    let followed = this.prefixes.follow(&data);
                    this.progress.0.store(this.prefixes.bits(), Relaxed);
                    followed
                        .inspect_err(|_| {
                            ended();
                        })
                        .map(|len| {
                            *this.held_back = data.split_off(len);
                            Frame::data(data)
                        })
                }
                Err(trailers) => {
                    ended();
                    Ok(trailers)
                }
            }),
            Some(Err(error)) => {
                ended();
                Some(Err(error))
            }
            None => {
                ended();
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.held_back.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // The body's own hint lacks the data that is held back.
        if self.held_back.is_empty() { self.body.size_hint() } else { SizeHint::default() }
    }
}

/// The position of a reader between messages.
#[derive(Debug, Default)]
struct PrefixReader {
    unary: bool,
    prefix: [u8; PREFIX_LEN],
    /// Bytes of the prefix that have arrived.
    prefix_len: usize,
    /// Bytes of the message that have not arrived.
    missing: u32,
    begun: bool,
    at_prefix: bool,
}

impl PrefixReader {
    /// Reads the next part of the body; returns how much of it may be passed
    /// on.
    fn follow(&mut self, data: &[u8]) -> Result<usize, Status> {
        let mut at = 0;
        while at < data.len() {
            let left = data.len() - at;
            if self.missing > 0 {
                let here = u32::try_from(left).map_or(self.missing, |left| left.min(self.missing));
                at += here as usize;
                self.missing -= here;
                continue;
            }
            if self.unary && self.begun && self.prefix_len == 0 {
                return Err(Status::internal(
                    "the request has more than one message, and the method takes one",
                ));
            }
            let here = left.min(PREFIX_LEN - self.prefix_len);
            self.prefix[self.prefix_len..][..here].copy_from_slice(&data[at..][..here]);
            at += here;
            self.prefix_len += here;
            if self.prefix_len == PREFIX_LEN {
                let [_, length @ ..] = self.prefix;
                self.missing = u32::from_be_bytes(length);
                self.prefix_len = 0;
                self.begun = true;
                self.at_prefix = !self.unary && self.missing > 0;
                if self.at_prefix {
                    return Ok(at);
                }
            }
        }
        self.at_prefix = false;
        Ok(at)
    }

    fn bits(&self) -> u8 {
        let when = |is: bool, bit: u8| if is { bit } else { 0 };
        when(self.begun, BEGUN)
            | when(self.begun && self.missing == 0 && self.prefix_len == 0, COMPLETE)
            | when(self.at_prefix, AT_PREFIX)
            | when(self.prefix[0] == 0, PLAIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(flag: u8, len: u32) -> Vec<u8> {
        let mut bytes = vec![flag];
        bytes.extend(len.to_be_bytes());
        bytes.extend(std::iter::repeat_n(7, len as usize));
        bytes
    }

    #[test]
    fn messages_are_followed_however_they_are_cut() {
        let body: Vec<u8> = [message(0, 3), message(1, 0), message(0, 300)].concat();
        let (complete, announced) = ([8, 13, 318], [5, 18]);
        for size in 1..body.len() {
            let mut prefixes = PrefixReader::default();
            let mut at = 0;
            for mut piece in body.chunks(size) {
                while !piece.is_empty() {
                    let here = prefixes.follow(piece).unwrap();
                    (at, piece) = (at + here, &piece[here..]);
                    let has = |bit| prefixes.bits() & bit != 0;
                    assert_eq!(has(COMPLETE), complete.contains(&at), "{at} of pieces of {size}");
                    assert_eq!(has(AT_PREFIX), announced.contains(&at), "{at} of pieces of {size}");
                }
            }
        }
    }

    #[test]
    fn a_second_message_is_one_too_many_from_its_first_byte() {
        for size in [1, 2, 5, 7, 100] {
            let body: Vec<u8> = [message(0, 3), message(0, 3)].concat();
            let mut prefixes = PrefixReader { unary: true, ..PrefixReader::default() };
            let failed = body.chunks(size).position(|piece| prefixes.follow(piece).is_err());
            assert_eq!(failed, Some(8 / size), "pieces of {size}");
        }
        let mut prefixes = PrefixReader { unary: true, ..PrefixReader::default() };
        prefixes.follow(&message(0, 3)).unwrap();
    }
}
