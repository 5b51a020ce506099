//! The upload of a request body, which is buffered for retries while it is
//! small.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::SendStream;
use http_body::Body as _;
use smallvec::SmallVec;
use tonic::{Status, body::Body};

use crate::framing::Framing;

/// The largest request body that is buffered for another attempt, in bytes.
const MAX_REPLAY_BYTES: usize = 256 << 10;
/// The largest write to `h2` without reserved capacity, in bytes: within the
/// initial window of every stream.
const MAX_UNRESERVED_WRITE: usize = 16 << 10;

/// The body of a call, across its attempts.
#[derive(Debug)]
pub(super) struct RequestBody {
    /// The body of the caller; `None` at its end.
    source: Option<Body>,
    /// Every frame so far, while the body is replayable.
    frames: SmallVec<[Bytes; 1]>,
    size: usize,
    replayable: bool,
    /// Bounds each message, where the method's policy does.
    sizes: Option<Framing>,
}

impl RequestBody {
    /// A body whose messages have at most `max` bytes.
    pub(super) fn new(source: Body, max: Option<usize>) -> Self {
        let sizes = max.map(Framing::up_to);
        Self { source: Some(source), frames: SmallVec::new(), size: 0, replayable: true, sizes }
    }

    /// An empty body.
    pub(super) fn ended() -> Self {
        Self { source: None, frames: SmallVec::new(), size: 0, replayable: false, sizes: None }
    }

    /// Returns whether another attempt can send the same body.
    pub(super) fn is_replayable(&self) -> bool {
        self.replayable
    }

    /// Returns whether the whole body is buffered.
    pub(super) fn is_complete(&self) -> bool {
        self.replayable && self.source.is_none()
    }

    /// The next frame, the `n`th of this attempt; `None` at the end.
    fn poll_frame(&mut self, n: usize, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        if let Some(frame) = self.frames.get(n) {
            return Poll::Ready(Some(Ok(frame.clone())));
        }
        while let Some(source) = &mut self.source {
            match ready!(Pin::new(source).poll_frame(cx)) {
                None => self.source = None,
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                // A gRPC request has no trailers.
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        if let Some(Err(why)) = self.sizes.as_mut().map(|sizes| sizes.pass(&data)) {
                            let why = format!("the request has {why}");
                            return Poll::Ready(Some(Err(Status::resource_exhausted(why))));
                        }
                        self.keep(&data);
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
            }
        }
        Poll::Ready(None)
    }

    fn keep(&mut self, data: &Bytes) {
        self.size = self.size.saturating_add(data.len());
        if self.size > MAX_REPLAY_BYTES {
            self.replayable = false;
            self.frames = SmallVec::new();
        }
        if self.replayable {
            self.frames.push(data.clone());
        }
    }
}

/// The reason for which an upload ended early.
#[derive(Debug)]
pub(super) enum UploadError {
    /// The caller's body failed.
    Body(Status),
    /// The server or the connection ended the stream; the response has the
    /// reason.
    Stream,
}

/// The upload of a body to the stream of one attempt.
#[derive(Debug)]
pub(super) struct Upload {
    stream: SendStream<Bytes>,
    /// The number of frames that this attempt has taken from the body.
    frames: usize,
    /// The frame that was taken and not yet written.
    held: Option<Bytes>,
    /// The frame after `held`, while the window has no capacity for `held`.
    next: Option<Bytes>,
    started: bool,
}

impl Upload {
    pub(super) fn new(stream: SendStream<Bytes>) -> Self {
        Self { stream, frames: 0, held: None, next: None, started: false }
    }

    /// Writes as much of `body` as is there and as the peer's window allows.
    /// Ready when all of it was written, with the end of the stream.
    pub(super) fn poll(
        &mut self,
        body: &mut RequestBody,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), UploadError>> {
        loop {
            // One frame is held back until the next arrives: the last one
            // carries the end of the stream.
            if self.next.is_some() {
                ready!(self.poll_write(false, cx))?;
                self.held = self.next.take();
            }
            match body.poll_frame(self.frames, cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.frames += 1;
                    let free = if self.held.is_none() { &mut self.held } else { &mut self.next };
                    *free = Some(frame);
                }
                Poll::Ready(None) => return self.poll_write(true, cx),
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Err(UploadError::Body(status))),
                Poll::Pending => {
                    if self.held.is_some() {
                        ready!(self.poll_write(false, cx))?;
                    }
                    // A stream that was reset takes no more data.
                    return match self.stream.poll_reset(cx) {
                        Poll::Ready(_) => Poll::Ready(Err(UploadError::Stream)),
                        Poll::Pending => Poll::Pending,
                    };
                }
            }
        }
    }

    /// Writes the held frame, in parts if the peer's window is small.
    fn poll_write(&mut self, last: bool, cx: &mut Context<'_>) -> Poll<Result<(), UploadError>> {
        let mut frame = self.held.take().unwrap_or_default();
        let small = !self.started && frame.len() <= MAX_UNRESERVED_WRITE;
        self.started = true;
        while !small && !frame.is_empty() {
            if self.stream.capacity() == 0 {
                self.stream.reserve_capacity(frame.len());
                match self.stream.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(_) => return Poll::Ready(Err(UploadError::Stream)),
                    Poll::Pending => {
                        self.held = Some(frame);
                        return Poll::Pending;
                    }
                }
                continue;
            }
            if frame.len() <= self.stream.capacity() {
                break;
            }
            let piece = frame.split_to(self.stream.capacity());
            self.stream.send_data(piece, false).map_err(|_| UploadError::Stream)?;
        }
        Poll::Ready(self.stream.send_data(frame, last).map_err(|_| UploadError::Stream))
    }
}

/// The rest of an upload after the response began, in a bidirectional call.
pub(super) struct RemainingUpload {
    pub(super) body: RequestBody,
    pub(super) upload: Upload,
}

impl RemainingUpload {
    /// Stops buffering: there are no more retries. Buffered frames that this
    /// attempt has not sent are kept.
    pub(super) fn new(mut body: RequestBody, upload: Upload) -> Self {
        body.replayable = false;
        if upload.frames >= body.frames.len() {
            body.frames = SmallVec::new();
        }
        Self { body, upload }
    }
}

impl Future for RemainingUpload {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { body, upload } = &mut *self;
        // The response stream reports the end of the call; a failed body resets
        // the request by dropping it half sent.
        upload.poll(body, cx).map(drop)
    }
}
