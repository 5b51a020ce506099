//! The message prefixes in a gRPC body: whether each message is compressed.
//!
//! tonic decompresses without a word, so the compression cases read the flag
//! bytes where the body passes by.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// The size of a prefix: one flag byte, and the message's length in four.
const PREFIX: usize = 5;
/// How many messages of one body are remembered; no case sends more.
const MAX_MESSAGES: usize = 256;

/// The flag of each message that has passed by, in order. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags(Arc<Mutex<Vec<bool>>>);

impl Flags {
    /// Whether message `n` was compressed; `None` when it has not passed by.
    pub(crate) fn get(&self, n: usize) -> Option<bool> {
        self.with(|flags| flags.get(n).copied())
    }

    /// All that have passed by.
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

    fn with<T>(&self, act: impl FnOnce(&mut Vec<bool>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Where in the stream of prefixes and messages the body is.
#[derive(Debug, Default)]
struct Scanner {
    prefix: [u8; PREFIX],
    filled: usize,
    /// The bytes of the present message that are still to come.
    left: usize,
}

impl Scanner {
    fn scan(&mut self, mut data: &[u8], flags: &Flags) {
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
            if self.filled == PREFIX {
                self.filled = 0;
                let [flag, length @ ..] = self.prefix;
                self.left = u32::from_be_bytes(length) as usize;
                flags.push(flag == 1);
            }
        }
    }
}

pin_project! {
    /// A body whose prefixes are noted as it passes by.
    #[derive(Debug)]
    pub(crate) struct Scanned<B> {
        #[pin]
        body: B,
        scanner: Scanner,
        flags: Flags,
    }
}

impl<B> Scanned<B> {
    pub(crate) fn new(body: B, flags: Flags) -> Self {
        Self { body, scanner: Scanner::default(), flags }
    }
}

impl<B: Body<Data = Bytes>> Body for Scanned<B> {
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
            this.scanner.scan(data, this.flags);
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
            let (flags, mut scanner) = (Flags::default(), Scanner::default());
            scanner.scan(&body[..cut], &flags);
            scanner.scan(&body[cut..], &flags);
            assert_eq!(flags.all(), [true, false, true], "cut at {cut}");
        }
    }
}
