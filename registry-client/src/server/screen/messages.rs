//! How far a request was read, by the prefixes of its messages.

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

/// What precedes each message: a flag that says whether it is compressed, and
/// its length in four bytes.
const PREFIX_LEN: usize = 5;

const BEGUN: u8 = 1;
const COMPLETE: u8 = 2;
const ENDED: u8 = 4;
const PLAIN: u8 = 8;
const AT_PREFIX: u8 = 16;

/// How far a request was read; shared with the future of its response.
#[derive(Debug, Default)]
pub(super) struct Progress(AtomicU8);

/// A request, as far as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Read {
    /// At least one message was announced.
    pub(super) begun: bool,
    /// Every message that was announced has come in whole.
    pub(super) complete: bool,
    /// Its reader knows that no further message comes.
    pub(super) ended: bool,
    /// Of a request that is a stream: the last message was announced, and its
    /// reader has not asked for it. A reader that takes it does so at once.
    pub(super) at_prefix: bool,
    /// The last message's flag says that it is not compressed.
    pub(super) plain: bool,
}

impl Progress {
    pub(super) fn now(&self) -> Read {
        let bits = self.0.load(Relaxed);
        let has = |bit| bits & bit != 0;
        Read {
            begun: has(BEGUN),
            complete: has(COMPLETE),
            ended: has(ENDED),
            at_prefix: has(AT_PREFIX),
            plain: has(PLAIN),
        }
    }
}

pin_project! {
    /// A request's body, whose messages are followed. Fails with INTERNAL at
    /// the second message of a request that has one; hands on a message of a
    /// stream apart from its prefix, so that it is known which message a reader
    /// refused by its length.
    #[derive(Debug)]
    pub(in crate::server) struct Messages<B> {
        #[pin]
        body: B,
        prefixes: Prefixes,
        // What has come in and was not handed on.
        kept: Bytes,
        progress: Arc<Progress>,
    }
}

impl<B> Messages<B> {
    /// `one` says that the request has one message.
    pub(super) fn new(body: B, one: bool, progress: Arc<Progress>) -> Self {
        Self { body, prefixes: Prefixes { one, ..Prefixes::default() }, kept: Bytes::new(), progress }
    }
}

impl<B> Body for Messages<B>
where
    B: Body<Data = Bytes, Error = Status>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        let polled = if this.kept.is_empty() {
            ready!(this.body.poll_frame(cx))
        } else {
            Some(Ok(Frame::data(mem::take(this.kept))))
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
                            *this.kept = data.split_off(len);
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
        self.kept.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // The body's own hint lacks what is kept back.
        if self.kept.is_empty() { self.body.size_hint() } else { SizeHint::default() }
    }
}

/// Where a body is between its messages.
#[derive(Debug, Default)]
struct Prefixes {
    one: bool,
    prefix: [u8; PREFIX_LEN],
    /// Bytes of the prefix that have come in.
    prefix_len: usize,
    /// Bytes of the message that have not come in.
    missing: u32,
    begun: bool,
    at_prefix: bool,
}

impl Prefixes {
    /// Takes what comes next of the body; how much of it may be handed on.
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
            if self.one && self.begun && self.prefix_len == 0 {
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
                self.at_prefix = !self.one && self.missing > 0;
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
            let mut prefixes = Prefixes::default();
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
            let mut prefixes = Prefixes { one: true, ..Prefixes::default() };
            let failed = body.chunks(size).position(|piece| prefixes.follow(piece).is_err());
            assert_eq!(failed, Some(8 / size), "pieces of {size}");
        }
        let mut prefixes = Prefixes { one: true, ..Prefixes::default() };
        prefixes.follow(&message(0, 3)).unwrap();
    }
}
