//! A response's body, compressed where it is worth it.

use std::{
    io::Write,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes, BytesMut};
use flate2::{Compression, write::GzEncoder};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{
    super::peers::{PeerConnection, Share},
    MIN_SIZE, PREFIX_LEN,
    turn::{PIECE, Turn},
};

pin_project! {
    /// A body whose larger messages are compressed.
    #[derive(Debug)]
    pub(in crate::server) struct Compressed<R> {
        #[pin]
        body: R,
        messages: Option<Messages>,
    }
}

impl<R> Compressed<R> {
    /// Messages of `connection` are compressed; `None` leaves the body as it is.
    pub(super) fn new(body: R, connection: Option<Option<Arc<PeerConnection>>>) -> Self {
        Self { body, messages: connection.map(Messages::new) }
    }
}

impl<R: Body<Data = Bytes>> Body for Compressed<R> {
    type Data = Bytes;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, R::Error>>> {
        let this = self.project();
        let Some(messages) = this.messages else { return this.body.poll_frame(cx) };
        if messages.part.is_none() {
            match ready!(this.body.poll_frame(cx)).transpose()?.map(Frame::into_data) {
                Some(Ok(data)) => messages.begin(data),
                other => return Poll::Ready(other.and_then(Result::err).map(Ok)),
            }
        }
        messages.poll_part(cx).map(|data| Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.messages.as_ref().is_none_or(|messages| messages.part.is_none()) && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.messages.is_none() { self.body.size_hint() } else { SizeHint::default() }
    }
}

/// Where a body is between its messages. tonic hands out whole messages; one
/// that comes in parts is left as it is.
#[derive(Debug)]
struct Messages {
    connection: Option<Arc<PeerConnection>>,
    /// How many bytes are left of a message that came in parts.
    left: usize,
    /// A prefix came in parts: nothing is known of what follows.
    is_lost: bool,
    /// What is being worked on.
    part: Option<Part>,
}

/// A part of a body.
#[derive(Debug)]
struct Part {
    data: Bytes,
    /// Where the next message begins.
    at: usize,
    /// Up to here, `out` has what `data` has.
    done: usize,
    out: BytesMut,
    message: Option<Packing>,
}

/// A message that is being compressed.
#[derive(Debug)]
struct Packing {
    end: usize,
    encoder: GzEncoder<Vec<u8>>,
    /// How far it was fed.
    fed: usize,
    turn: Turn,
    /// Held while it waits for its turns.
    _share: Option<Share>,
}

impl Messages {
    fn new(connection: Option<Arc<PeerConnection>>) -> Self {
        Self { connection, left: 0, is_lost: false, part: None }
    }

    fn begin(&mut self, data: Bytes) {
        let at = self.left.min(data.len());
        self.left -= at;
        self.part = Some(Part { data, at, done: 0, out: BytesMut::new(), message: None });
    }

    /// The part in hand, with its messages compressed.
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        let Some(part) = &mut self.part else { return Poll::Ready(Bytes::new()) };
        loop {
            if let Some(message) = &mut part.message {
                ready!(message.poll(cx, &part.data));
                part.close();
            }
            let Some((&[flag, length @ ..], rest)) = part.data[part.at..].split_first_chunk::<PREFIX_LEN>()
            else {
                break;
            };
            if self.is_lost {
                break;
            }
            let length = u32::from_be_bytes(length) as usize;
            let here = length.min(rest.len());
            self.left = length - here;
            let begin = part.at + PREFIX_LEN;
            if flag == 0 && self.left == 0 && length >= MIN_SIZE {
                part.message = Packing::new(begin, begin + here, self.connection.as_ref());
            }
            if part.message.is_none() {
                part.at = begin + here;
            }
        }
        self.is_lost |= part.at < part.data.len();
        Poll::Ready(self.part.take().map(Part::finish).unwrap_or_default())
    }
}

impl Part {
    /// Takes the compressed message over where it is smaller.
    fn close(&mut self) {
        let Some(Packing { end, encoder, .. }) = self.message.take() else { return };
        let size = end - self.at - PREFIX_LEN;
        if let Ok(packed) = encoder.finish()
            && let Ok(length) = u32::try_from(packed.len())
            && packed.len() < size
        {
            self.out.put(&self.data[self.done..self.at]);
            self.out.put_u8(1);
            self.out.put_u32(length);
            self.out.put(&packed[..]);
            self.done = end;
        }
        self.at = end;
    }

    fn finish(mut self) -> Bytes {
        if self.done == 0 {
            return self.data;
        }
        self.out.put(&self.data[self.done..]);
        self.out.freeze()
    }
}

impl Packing {
    /// `None` where the peer's share has no room for a message that takes several
    /// turns: it stays as it is.
    fn new(begin: usize, end: usize, connection: Option<&Arc<PeerConnection>>) -> Option<Self> {
        let size = end - begin;
        let share = match connection.filter(|_| size > PIECE) {
            Some(connection) => Some(connection.claim_bytes(size)?),
            None => None,
        };
        let encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let turn = Turn::of(connection.map(|connection| &**connection));
        Some(Self { end, encoder, fed: begin, turn, _share: share })
    }

    /// Completes when all of it was fed.
    fn poll(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<()> {
        while self.fed < self.end {
            ready!(self.turn.poll_piece(cx));
            let piece = &data[self.fed..self.end.min(self.fed + PIECE)];
            // Writing to memory does not fail.
            let _ = self.encoder.write_all(piece);
            self.fed += piece.len();
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, task::Waker};

    use super::*;

    /// All of `data`, however many turns it takes.
    fn compress(messages: &mut Messages, data: Bytes) -> Bytes {
        messages.begin(data);
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(data) = messages.poll_part(&mut cx) {
                return data;
            }
        }
    }

    fn message(text: &[u8]) -> Vec<u8> {
        let mut framed = vec![0];
        framed.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        framed.extend(text);
        framed
    }

    /// The messages of a body, each with its flag.
    fn read(mut body: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut all = Vec::new();
        while let Some((&[flag, length @ ..], rest)) = body.split_first_chunk::<PREFIX_LEN>() {
            let (one, more) = rest.split_at(u32::from_be_bytes(length) as usize);
            let mut text = one.to_vec();
            if flag == 1 {
                text.clear();
                flate2::read::GzDecoder::new(one).read_to_end(&mut text).unwrap();
            }
            all.push((flag, text));
            body = more;
        }
        assert!(body.is_empty());
        all
    }

    #[test]
    fn large_messages_are_compressed_and_small_or_random_ones_are_not() {
        let large = vec![b'x'; MIN_SIZE];
        let small = vec![b'x'; MIN_SIZE - 1];
        let random: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(5_000).collect();
        let huge = vec![b'x'; 3 * PIECE + 1];
        let texts = [&small, &large, &random, &large, &small, &Vec::new(), &huge, &random];
        let expected: Vec<_> = [0, 1, 0, 1, 0, 0, 1, 0].into_iter().zip(texts.map(Vec::clone)).collect();
        let body: Vec<u8> = texts.iter().flat_map(|text| message(text)).collect();
        let mut messages = Messages::new(None);
        assert_eq!(read(&compress(&mut messages, body.into())), expected);
    }

    #[test]
    fn messages_in_parts_come_out_as_they_were() {
        let texts = [vec![b'x'; 3_000], vec![b'y'; 10], vec![b'z'; 2_000]];
        let body: Vec<u8> = texts.iter().flat_map(|text| message(text)).collect();
        for size in 1..body.len() {
            let mut messages = Messages::new(None);
            let out: Vec<u8> = body
                .chunks(size)
                .flat_map(|piece| compress(&mut messages, Bytes::copy_from_slice(piece)))
                .collect();
            let got: Vec<_> = read(&out).into_iter().map(|(_, text)| text).collect();
            assert_eq!(got, texts, "pieces of {size}");
        }
    }
}
