//! The message prefixes in a gRPC body, which have the compressed flag of each
//! message.
//!
//! tonic decompresses silently, so the compression cases read the flag bytes
//! from the body.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// The size of a prefix: one flag byte, and the message's length in four.
const PREFIX_BYTES: usize = 5;
/// Messages of one body that are recorded at most; no case sends more.
const MAX_MESSAGES: usize = 256;

/// The compressed flag of each message of a body, in order. Clones share the
/// flags.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags(Arc<Mutex<Vec<bool>>>);

impl Flags {
    /// The flag of message `n`; `None` when it has not been read yet.
    pub(crate) fn get(&self, n: usize) -> Option<bool> {
        self.with(|flags| flags.get(n).copied())
    }

    /// All flags so far.
    pub(crate) fn all(&self) -> Vec<bool> {
        self.with(|flags| flags.clone())
    }

    fn push(&self, compressed: bool) {
        self.with(|flags| {
            if flags.len() < MAX_MESSAGES {
                flags.push(compressed);
            }
        });
    }

    fn with<T>(&self, f: impl FnOnce(&mut Vec<bool>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A parser of the stream of prefixes and messages.
#[derive(Debug, Default)]
struct PrefixParser {
    prefix: [u8; PREFIX_BYTES],
    filled: usize,
    /// The bytes of the current message that have not been read yet.
    left: usize,
}

impl PrefixParser {
    fn parse(&mut self, mut data: &[u8], flags: &Flags) {
        while !data.is_empty() {
            if self.left > 0 {
                let skipped = self.left.min(data.len());
                self.left -= skipped;
                data = &data[skipped..];
                continue;
            }
            self.prefix[self.filled] = data[0];
            self.filled += 1;
            data = &data[1..];
            if self.filled == PREFIX_BYTES {
                self.filled = 0;
                let [flag, length @ ..] = self.prefix;
                self.left = u32::from_be_bytes(length) as usize;
                flags.push(flag == 1);
            }
        }
    }
}

pin_project! {
    /// A body whose message flags are recorded while it is read.
    #[derive(Debug)]
    pub(crate) struct ScannedBody<B> {
        #[pin]
        body: B,
        parser: PrefixParser,
        flags: Flags,
    }
}

impl<B> ScannedBody<B> {
    pub(crate) fn new(body: B, flags: Flags) -> Self {
        Self { body, parser: PrefixParser::default(), flags }
    }
}

impl<B: Body<Data = Bytes>> Body for ScannedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let polled = this.body.poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            this.parser.parse(data, this.flags);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_wherever_the_body_is_cut() {
        let body = [&[1, 0, 0, 0, 3, 9, 9, 9][..], &[0, 0, 0, 0, 0], &[1, 0, 0, 0, 1, 1]].concat();
        for cut in 0..body.len() {
            let (flags, mut parser) = (Flags::default(), PrefixParser::default());
            parser.parse(&body[..cut], &flags);
            parser.parse(&body[cut..], &flags);
            assert_eq!(flags.all(), [true, false, true], "cut at {cut}");
        }
    }
}
