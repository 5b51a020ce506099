//! A request's body without its compression.

use std::{
    io::Read,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;

use super::PREFIX_LEN;

pin_project! {
    /// A body whose messages are decompressed where they are compressed.
    #[derive(Debug)]
    pub(in crate::server) struct Decompressed<B> {
        #[pin]
        body: B,
        messages: Option<Messages>,
        // What came after the messages, while some of them are left.
        trailers: Option<Frame<Bytes>>,
        is_over: bool,
    }
}

impl<B> Decompressed<B> {
    /// Messages of up to `max_size` bytes are decompressed; `None` leaves the
    /// body as it is.
    pub(super) fn new(body: B, max_size: Option<usize>) -> Self {
        let messages = max_size.map(|max_size| Messages { max_size, passing: 0, buf: BytesMut::new() });
        Self { body, messages, trailers: None, is_over: false }
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
            match messages.next() {
                Ok(Some(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Ok(None) if *this.is_over => {
                    if !messages.buf.is_empty() {
                        messages.buf.clear();
                        let status = Status::internal("the request ends within a message");
                        return Poll::Ready(Some(Err(status)));
                    }
                    return Poll::Ready(this.trailers.take().map(Ok));
                }
                Ok(None) => {}
                Err(status) => {
                    // Nothing is read of what follows.
                    messages.buf.clear();
                    *this.is_over = true;
                    return Poll::Ready(Some(Err(status)));
                }
            }
            match ready!(this.body.as_mut().poll_frame(cx)).transpose()?.map(Frame::into_data) {
                Some(Ok(data)) => messages.buf.put(data),
                Some(Err(trailers)) => {
                    *this.trailers = Some(trailers);
                    *this.is_over = true;
                }
                None => *this.is_over = true,
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

/// What has come in of the messages.
#[derive(Debug)]
struct Messages {
    max_size: usize,
    /// How many bytes are left of a message that is not compressed.
    passing: usize,
    buf: BytesMut,
}

impl Messages {
    /// What can be handed on; `None` until more has come in.
    fn next(&mut self) -> Result<Option<Bytes>, Status> {
        if self.passing > 0 && !self.buf.is_empty() {
            let here = self.passing.min(self.buf.len());
            self.passing -= here;
            return Ok(Some(self.buf.split_to(here).freeze()));
        }
        let Some((&[flag, length @ ..], _)) = self.buf.split_first_chunk::<PREFIX_LEN>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(length) as usize;
        if flag != 1 {
            self.passing = length;
            return Ok(Some(self.buf.split_to(PREFIX_LEN).freeze()));
        }
        if length > self.max_size {
            return Err(Status::resource_exhausted(format!(
                "a compressed message has {length} bytes, and the limit is {}",
                self.max_size
            )));
        }
        if self.buf.len() - PREFIX_LEN < length {
            return Ok(None);
        }
        self.buf.advance(PREFIX_LEN);
        decompressed(&self.buf.split_to(length), self.max_size).map(Some)
    }
}

/// A message with its prefix, out of what gzip made of it.
fn decompressed(packed: &[u8], max_size: usize) -> Result<Bytes, Status> {
    let mut message = vec![0; PREFIX_LEN];
    // One byte more than allowed shows that it is too many.
    let limit = u64::try_from(max_size).unwrap_or(u64::MAX).saturating_add(1);
    if !packed.is_empty() {
        MultiGzDecoder::new(packed).take(limit).read_to_end(&mut message).map_err(|why| {
            Status::internal(format!("a message that is marked as compressed with gzip is not: {why}"))
        })?;
    }
    let size = message.len() - PREFIX_LEN;
    let length = u32::try_from(size).ok().filter(|_| size <= max_size);
    let length = length.ok_or_else(|| {
        Status::resource_exhausted(format!(
            "a message has more bytes, once it is decompressed, than the limit, {max_size}"
        ))
    })?;
    message[1..PREFIX_LEN].copy_from_slice(&length.to_be_bytes());
    Ok(message.into())
}
