//! A request's body on its way out, kept for a second way while it is small.

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

/// The largest request that is kept for another attempt, in bytes.
const REPLAY_LIMIT: usize = 256 << 10;
/// What may be handed to `h2` without asking for room first: within the
/// window that every stream begins with.
const UNASKED: usize = 16 << 10;

/// The body of a call, across its attempts.
#[derive(Debug)]
pub(super) struct RequestBody {
    /// Where frames come from; `None` at the end.
    source: Option<Body>,
    /// Every frame that came, while they are worth keeping.
    taken: SmallVec<[Bytes; 1]>,
    size: usize,
    replayable: bool,
    /// Bounds each message, where the method's policy does.
    sizes: Option<Framing>,
}

impl RequestBody {
    /// `most`: how many bytes a message may have.
    pub(super) fn new(source: Body, most: Option<usize>) -> Self {
        let sizes = most.map(Framing::up_to);
        Self { source: Some(source), taken: SmallVec::new(), size: 0, replayable: true, sizes }
    }

    /// A body without anything in it.
    pub(super) fn ended() -> Self {
        Self { source: None, taken: SmallVec::new(), size: 0, replayable: false, sizes: None }
    }

    /// Whether another attempt could send the same body.
    pub(super) fn is_replayable(&self) -> bool {
        self.replayable
    }

    /// Whether the whole of it is here to be sent once more.
    pub(super) fn is_complete(&self) -> bool {
        self.replayable && self.source.is_none()
    }

    /// The next frame, the `n`th of this attempt; `None` at the end.
    fn poll_frame(&mut self, n: usize, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        if let Some(frame) = self.taken.get(n) {
            return Poll::Ready(Some(Ok(frame.clone())));
        }
        while let Some(source) = &mut self.source {
            match ready!(Pin::new(source).poll_frame(cx)) {
                None => self.source = None,
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                // A request has no trailers in gRPC.
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
        if self.size > REPLAY_LIMIT {
            self.replayable = false;
            self.taken = SmallVec::new();
        }
        if self.replayable {
            self.taken.push(data.clone());
        }
    }
}

/// Why an upload ended early.
#[derive(Debug)]
pub(super) enum UploadError {
    /// The caller's stream of messages failed.
    Body(Status),
    /// The server or the connection ended the stream; the answer tells why.
    Stream,
}

/// One attempt's stream that the body is written to.
#[derive(Debug)]
pub(super) struct Upload {
    stream: SendStream<Bytes>,
    /// How many frames of the body were taken for this attempt.
    taken: usize,
    /// What was taken and not yet written.
    held: Option<Bytes>,
    /// The frame after `held`, while there is no room for `held`.
    next: Option<Bytes>,
    started: bool,
}

impl Upload {
    pub(super) fn new(stream: SendStream<Bytes>) -> Self {
        Self { stream, taken: 0, held: None, next: None, started: false }
    }

    /// Writes as much of `body` as there is and as the peer takes. Ready when
    /// everything was written, the end of the stream included.
    pub(super) fn poll(
        &mut self,
        body: &mut RequestBody,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), UploadError>> {
        loop {
            // One frame is held back until it is known whether it is the last:
            // that one carries the end of the stream.
            if self.next.is_some() {
                ready!(self.poll_write(false, cx))?;
                self.held = self.next.take();
            }
            match body.poll_frame(self.taken, cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.taken += 1;
                    let free = if self.held.is_none() { &mut self.held } else { &mut self.next };
                    *free = Some(frame);
                }
                Poll::Ready(None) => return self.poll_write(true, cx),
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Err(UploadError::Body(status))),
                Poll::Pending => {
                    if self.held.is_some() {
                        ready!(self.poll_write(false, cx))?;
                    }
                    // A stream that was reset takes nothing more.
                    return match self.stream.poll_reset(cx) {
                        Poll::Ready(_) => Poll::Ready(Err(UploadError::Stream)),
                        Poll::Pending => Poll::Pending,
                    };
                }
            }
        }
    }

    /// Writes the held frame, in pieces if the peer's window is small.
    fn poll_write(&mut self, last: bool, cx: &mut Context<'_>) -> Poll<Result<(), UploadError>> {
        let mut frame = self.held.take().unwrap_or_default();
        let small = !self.started && frame.len() <= UNASKED;
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

/// What is left of an upload after the answer began: a bidirectional call.
pub(super) struct Rest {
    pub(super) body: RequestBody,
    pub(super) upload: Upload,
}

impl Rest {
    /// Nothing is sent again any more, so nothing more is kept; what was kept
    /// and is not yet sent on this attempt still is.
    pub(super) fn new(mut body: RequestBody, upload: Upload) -> Self {
        body.replayable = false;
        if upload.taken >= body.taken.len() {
            body.taken = SmallVec::new();
        }
        Self { body, upload }
    }
}

impl Future for Rest {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { body, upload } = &mut *self;
        // How it ends is told by the answer's stream; a failed body resets
        // the request by dropping it half sent.
        upload.poll(body, cx).map(drop)
    }
}
