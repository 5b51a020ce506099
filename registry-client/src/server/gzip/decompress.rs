//! The decompression of a request body.

use std::{
    io::Read,
    mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, Bytes, BytesMut, buf::Reader};
use flate2::bufread::MultiGzDecoder;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;

use super::{
    super::peers::{PeerConnection, Share, ShareExceeded},
    PREFIX_LEN,
    slices::{SLICE_BYTES, TimeSlices},
};

pin_project! {
    /// A body whose compressed messages are decompressed.
    #[derive(Debug)]
    pub(in crate::server) struct Decompressed<B> {
        #[pin]
        body: B,
        messages: Option<MessageDecompressor>,
        // The trailers, while messages are left.
        trailers: Option<Frame<Bytes>>,
        has_ended: bool,
    }
}

impl<B> Decompressed<B> {
    /// Decompresses messages within `budget`; `None` leaves the body as it is.
    pub(super) fn new(body: B, budget: Option<DecompressionBudget>) -> Self {
        let messages = budget.map(MessageDecompressor::new);
        Self { body, messages, trailers: None, has_ended: false }
    }
}

impl<B> Body for Decompressed<B>
where
    B: Body<Data = Bytes, Error = Status>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut this = self.project();
        let Some(messages) = this.messages else { return this.body.poll_frame(cx) };
        loop {
            match ready!(messages.poll_next(cx)) {
                Ok(Some(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Ok(None) if *this.has_ended => {
                    if !messages.buf.is_empty() {
                        messages.buf.clear();
                        let status = Status::internal("the request ends within a message");
                        return Poll::Ready(Some(Err(status)));
                    }
                    return Poll::Ready(this.trailers.take().map(Ok));
                }
                Ok(None) => {}
                Err(status) => {
                    // The rest is not read.
                    messages.buf.clear();
                    *this.has_ended = true;
                    return Poll::Ready(Some(Err(status)));
                }
            }
            match ready!(this.body.as_mut().poll_frame(cx)).transpose()?.map(Frame::into_data) {
                Some(Ok(data)) => messages.buf.put(data),
                Some(Err(trailers)) => {
                    *this.trailers = Some(trailers);
                    *this.has_ended = true;
                }
                None => *this.has_ended = true,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.messages.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.messages.is_none() { self.body.size_hint() } else { SizeHint::default() }
    }
}

/// The budget for a call's decompressed messages; clones share it.
#[derive(Clone, Debug)]
pub(super) struct DecompressionBudget {
    max_size: usize,
    connection: Option<Arc<PeerConnection>>,
    /// The share of the last message, while the call is in flight.
    share: Arc<Mutex<Option<Share>>>,
}

impl DecompressionBudget {
    /// A budget of `max_size` bytes per message, from the share of
    /// `connection`.
    pub(super) fn new(max_size: usize, connection: Option<Arc<PeerConnection>>) -> Self {
        Self { max_size, connection, share: Arc::default() }
    }

    fn take(&self, size: usize) -> Result<(), Status> {
        let Some(connection) = &self.connection else { return Ok(()) };
        let mut share = self.share.lock().unwrap_or_else(PoisonError::into_inner);
        // The share of the previous message is released first.
        *share = None;
        *share = Some(connection.claim_bytes(size).ok_or_else(|| ShareExceeded::Busy.into_status())?);
        Ok(())
    }
}

/// The decompressor of a body's messages.
#[derive(Debug)]
struct MessageDecompressor {
    budget: DecompressionBudget,
    /// The bytes that are left of an uncompressed message.
    plain_left: usize,
    buf: BytesMut,
    job: Option<DecompressionJob>,
}

impl MessageDecompressor {
    fn new(budget: DecompressionBudget) -> Self {
        Self { budget, plain_left: 0, buf: BytesMut::new(), job: None }
    }

    /// The next data to pass on; `None` until more has arrived.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        if self.job.is_none() {
            match self.start_next() {
                Ok(None) if self.job.is_some() => {}
                passed => return Poll::Ready(passed),
            }
        }
        let Some(job) = &mut self.job else { return Poll::Ready(Ok(None)) };
        let message = ready!(job.poll(cx, &self.budget));
        self.job = None;
        Poll::Ready(message.map(Some))
    }

    /// Uncompressed data to pass on, if any; otherwise starts on a compressed
    /// message that is complete.
    fn start_next(&mut self) -> Result<Option<Bytes>, Status> {
        if self.plain_left > 0 && !self.buf.is_empty() {
            let here = self.plain_left.min(self.buf.len());
            self.plain_left -= here;
            return Ok(Some(self.buf.split_to(here).freeze()));
        }
        let Some((&[flag, length @ ..], _)) = self.buf.split_first_chunk::<PREFIX_LEN>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(length) as usize;
        if flag != 1 {
            self.plain_left = length;
            return Ok(Some(self.buf.split_to(PREFIX_LEN).freeze()));
        }
        let max_size = self.budget.max_size;
        if length > max_size {
            return Err(Status::resource_exhausted(format!(
                "a compressed message has {length} bytes, and the limit is {max_size}"
            )));
        }
        if self.buf.len() - PREFIX_LEN >= length {
            self.buf.advance(PREFIX_LEN);
            self.job = Some(DecompressionJob::new(self.buf.split_to(length).freeze(), &self.budget));
        }
        Ok(None)
    }
}

/// A message that is being decompressed.
#[derive(Debug)]
struct DecompressionJob {
    decoder: MultiGzDecoder<Reader<Bytes>>,
    is_empty: bool,
    /// The prefix and the decompressed part of the message.
    message: Vec<u8>,
    slices: TimeSlices,
}

impl DecompressionJob {
    fn new(job: Bytes, budget: &DecompressionBudget) -> Self {
        let slices = TimeSlices::new(budget.connection.as_deref());
        let is_empty = job.is_empty();
        Self { decoder: MultiGzDecoder::new(job.reader()), is_empty, message: vec![0; PREFIX_LEN], slices }
    }

    /// The whole message, once it is decompressed.
    fn poll(&mut self, cx: &mut Context<'_>, budget: &DecompressionBudget) -> Poll<Result<Bytes, Status>> {
        loop {
            ready!(self.slices.poll_slice(cx));
            match self.decompress_slice(budget) {
                Ok(true) => return Poll::Ready(self.finish(budget)),
                Ok(false) => {}
                Err(status) => return Poll::Ready(Err(status)),
            }
        }
    }

    /// Decompresses one slice; returns whether it was the last.
    fn decompress_slice(&mut self, budget: &DecompressionBudget) -> Result<bool, Status> {
        if self.is_empty {
            return Ok(true);
        }
        let before = self.message.len();
        // One byte above the limit shows that the message is too large.
        let max = (PREFIX_LEN + budget.max_size).saturating_add(1) - before;
        if before > PREFIX_LEN && self.message.capacity() - before < SLICE_BYTES.min(max) {
            let more = before.min(max);
            budget.take(before + more)?;
            self.message.reserve_exact(more);
        }
        let here = SLICE_BYTES.min(max);
        let read = self.decoder.by_ref().take(here as u64).read_to_end(&mut self.message).map_err(|why| {
            Status::internal(format!("a message that is marked as compressed with gzip is not: {why}"))
        })?;
        Ok(read < here || read == max)
    }

    /// The message, with its size in the prefix.
    fn finish(&mut self, budget: &DecompressionBudget) -> Result<Bytes, Status> {
        let mut message = mem::take(&mut self.message);
        let size = message.len() - PREFIX_LEN;
        let length = u32::try_from(size).ok().filter(|_| size <= budget.max_size);
        let length = length.ok_or_else(|| {
            Status::resource_exhausted(format!(
                "a message has more bytes, once it is decompressed, than the limit, {}",
                budget.max_size
            ))
        })?;
        message[1..PREFIX_LEN].copy_from_slice(&length.to_be_bytes());
        budget.take(message.len())?;
        Ok(message.into())
    }
}
