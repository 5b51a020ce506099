//! The compression of a response body.

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
    slices::{SLICE_BYTES, TimeSlices},
};

pin_project! {
    /// A body whose larger messages are compressed.
    #[derive(Debug)]
    pub(in crate::server) struct Compressed<R> {
        #[pin]
        body: R,
        messages: Option<MessageCompressor>,
    }
}

impl<R> Compressed<R> {
    /// Compresses messages for `connection`; `None` leaves the body as it is.
    pub(super) fn new(body: R, connection: Option<Option<Arc<PeerConnection>>>) -> Self {
        Self { body, messages: connection.map(MessageCompressor::new) }
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
        if messages.chunk.is_none() {
            match ready!(this.body.poll_frame(cx)).transpose()?.map(Frame::into_data) {
                Some(Ok(data)) => messages.start(data),
                other => return Poll::Ready(other.and_then(Result::err).map(Ok)),
            }
        }
        messages.poll_chunk(cx).map(|data| Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.messages.as_ref().is_none_or(|messages| messages.chunk.is_none()) && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.messages.is_none() { self.body.size_hint() } else { SizeHint::default() }
    }
}

/// The compressor of a body's messages. tonic yields whole messages; one that
/// comes in parts is left as it is.
#[derive(Debug)]
struct MessageCompressor {
    connection: Option<Arc<PeerConnection>>,
    /// The bytes that are left of a message that came in parts.
    left: usize,
    /// A prefix came in parts, so that the rest is left as it is.
    is_lost: bool,
    /// The chunk in progress.
    chunk: Option<Chunk>,
}

/// A chunk of a body.
#[derive(Debug)]
struct Chunk {
    data: Bytes,
    /// The start of the next message.
    at: usize,
    /// The end of the part of `data` that `out` covers.
    done: usize,
    out: BytesMut,
    message: Option<CompressionJob>,
}

/// A message that is being compressed.
#[derive(Debug)]
struct CompressionJob {
    end: usize,
    encoder: GzEncoder<Vec<u8>>,
    /// The end of the part that was fed to the encoder.
    position: usize,
    slices: TimeSlices,
    /// Held while the job waits for its time slices.
    _share: Option<Share>,
}

impl MessageCompressor {
    fn new(connection: Option<Arc<PeerConnection>>) -> Self {
        Self { connection, left: 0, is_lost: false, chunk: None }
    }

    fn start(&mut self, data: Bytes) {
        let at = self.left.min(data.len());
        self.left -= at;
        self.chunk = Some(Chunk { data, at, done: 0, out: BytesMut::new(), message: None });
    }

    /// The chunk with its messages compressed.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        let Some(chunk) = &mut self.chunk else { return Poll::Ready(Bytes::new()) };
        loop {
            if let Some(message) = &mut chunk.message {
                ready!(message.poll(cx, &chunk.data));
                chunk.finish_message();
            }
            let Some((&[flag, length @ ..], rest)) = chunk.data[chunk.at..].split_first_chunk::<PREFIX_LEN>()
            else {
                break;
            };
            if self.is_lost {
                break;
            }
            let length = u32::from_be_bytes(length) as usize;
            let here = length.min(rest.len());
            self.left = length - here;
            let start = chunk.at + PREFIX_LEN;
            if flag == 0 && self.left == 0 && length >= MIN_SIZE {
                chunk.message = CompressionJob::new(start, start + here, self.connection.as_ref());
            }
            if chunk.message.is_none() {
                chunk.at = start + here;
            }
        }
        self.is_lost |= chunk.at < chunk.data.len();
        Poll::Ready(self.chunk.take().map(Chunk::finish).unwrap_or_default())
    }
}

impl Chunk {
    /// Uses the compressed message if it is smaller.
    fn finish_message(&mut self) {
        let Some(CompressionJob { end, encoder, .. }) = self.message.take() else { return };
        let size = end - self.at - PREFIX_LEN;
        if let Ok(compressed) = encoder.finish()
            && let Ok(length) = u32::try_from(compressed.len())
            && compressed.len() < size
        {
            self.out.put(&self.data[self.done..self.at]);
            self.out.put_u8(1);
            self.out.put_u32(length);
            self.out.put(&compressed[..]);
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

impl CompressionJob {
    /// `None` where the peer's share does not allow a message of several time
    /// slices: it stays as it is.
    fn new(start: usize, end: usize, connection: Option<&Arc<PeerConnection>>) -> Option<Self> {
        let size = end - start;
        let share = match connection.filter(|_| size > SLICE_BYTES) {
            Some(connection) => Some(connection.claim_bytes(size)?),
            None => None,
        };
        let encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let slices = TimeSlices::new(connection.map(|connection| &**connection));
        Some(Self { end, encoder, position: start, slices, _share: share })
    }

    /// Completes when the whole message was fed.
    fn poll(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<()> {
        while self.position < self.end {
            ready!(self.slices.poll_slice(cx));
            let slice = &data[self.position..self.end.min(self.position + SLICE_BYTES)];
            // Writing to memory does not fail.
            let _ = self.encoder.write_all(slice);
            self.position += slice.len();
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, task::Waker};

    use super::*;

    /// All of `data`, in as many time slices as it takes.
    fn compress(messages: &mut MessageCompressor, data: Bytes) -> Bytes {
        messages.start(data);
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(data) = messages.poll_chunk(&mut cx) {
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
        let huge = vec![b'x'; 3 * SLICE_BYTES + 1];
        let texts = [&small, &large, &random, &large, &small, &Vec::new(), &huge, &random];
        let expected: Vec<_> = [0, 1, 0, 1, 0, 0, 1, 0].into_iter().zip(texts.map(Vec::clone)).collect();
        let body: Vec<u8> = texts.iter().flat_map(|text| message(text)).collect();
        let mut messages = MessageCompressor::new(None);
        assert_eq!(read(&compress(&mut messages, body.into())), expected);
    }

    #[test]
    fn messages_in_parts_come_out_as_they_were() {
        let texts = [vec![b'x'; 3_000], vec![b'y'; 10], vec![b'z'; 2_000]];
        let body: Vec<u8> = texts.iter().flat_map(|text| message(text)).collect();
        for size in 1..body.len() {
            let mut messages = MessageCompressor::new(None);
            let out: Vec<u8> = body
                .chunks(size)
                .flat_map(|slice| compress(&mut messages, Bytes::copy_from_slice(slice)))
                .collect();
            let got: Vec<_> = read(&out).into_iter().map(|(_, text)| text).collect();
            assert_eq!(got, texts, "pieces of {size}");
        }
    }
}
