//! A request's body without its compression.

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
    super::peers::{NoRoom, PeerConnection, Share},
    PREFIX_LEN,
    turn::{PIECE, Turn},
};

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
    /// Messages are decompressed into `room`; `None` leaves the body as it is.
    pub(super) fn new(body: B, room: Option<Room>) -> Self {
        let messages = room.map(Messages::new);
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
            match ready!(messages.poll_next(cx)) {
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

/// What a call's messages may take once they are decompressed. Its clones are of
/// the same call.
#[derive(Clone, Debug)]
pub(super) struct Room {
    max_size: usize,
    connection: Option<Arc<PeerConnection>>,
    /// That of the last message, while the call is under way.
    share: Arc<Mutex<Option<Share>>>,
}

impl Room {
    /// `connection` holds what is decompressed of up to `max_size` bytes.
    pub(super) fn new(max_size: usize, connection: Option<Arc<PeerConnection>>) -> Self {
        Self { max_size, connection, share: Arc::default() }
    }

    fn take(&self, size: usize) -> Result<(), Status> {
        let Some(connection) = &self.connection else { return Ok(()) };
        let mut share = self.share.lock().unwrap_or_else(PoisonError::into_inner);
        // That of the message before is free first.
        *share = None;
        *share = Some(connection.claim_bytes(size).ok_or_else(|| NoRoom::Busy.refused())?);
        Ok(())
    }
}

/// What has come in of the messages.
#[derive(Debug)]
struct Messages {
    room: Room,
    /// How many bytes are left of a message that is not compressed.
    passing: usize,
    buf: BytesMut,
    packed: Option<Packed>,
}

impl Messages {
    fn new(room: Room) -> Self {
        Self { room, passing: 0, buf: BytesMut::new(), packed: None }
    }

    /// What can be handed on; `None` until more has come in.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        if self.packed.is_none() {
            match self.begin_next() {
                Ok(None) if self.packed.is_some() => {}
                passed => return Poll::Ready(passed),
            }
        }
        let Some(packed) = &mut self.packed else { return Poll::Ready(Ok(None)) };
        let message = ready!(packed.poll(cx, &self.room));
        self.packed = None;
        Poll::Ready(message.map(Some))
    }

    /// What is not compressed and can be handed on; else a message that is and
    /// has come in whole is begun.
    fn begin_next(&mut self) -> Result<Option<Bytes>, Status> {
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
        let max_size = self.room.max_size;
        if length > max_size {
            return Err(Status::resource_exhausted(format!(
                "a compressed message has {length} bytes, and the limit is {max_size}"
            )));
        }
        if self.buf.len() - PREFIX_LEN >= length {
            self.buf.advance(PREFIX_LEN);
            self.packed = Some(Packed::new(self.buf.split_to(length).freeze(), &self.room));
        }
        Ok(None)
    }
}

/// A message that is being decompressed.
#[derive(Debug)]
struct Packed {
    decoder: MultiGzDecoder<Reader<Bytes>>,
    is_empty: bool,
    /// The message with its prefix, as far as it is done.
    message: Vec<u8>,
    turn: Turn,
}

impl Packed {
    fn new(packed: Bytes, room: &Room) -> Self {
        let turn = Turn::of(room.connection.as_deref());
        let is_empty = packed.is_empty();
        Self { decoder: MultiGzDecoder::new(packed.reader()), is_empty, message: vec![0; PREFIX_LEN], turn }
    }

    /// The whole message, once it is there.
    fn poll(&mut self, cx: &mut Context<'_>, room: &Room) -> Poll<Result<Bytes, Status>> {
        loop {
            ready!(self.turn.poll_piece(cx));
            match self.piece(room) {
                Ok(true) => return Poll::Ready(self.finish(room)),
                Ok(false) => {}
                Err(status) => return Poll::Ready(Err(status)),
            }
        }
    }

    /// Decompresses one piece; whether it was the last.
    fn piece(&mut self, room: &Room) -> Result<bool, Status> {
        if self.is_empty {
            return Ok(true);
        }
        let before = self.message.len();
        // One byte more than allowed shows that it is too many.
        let most = (PREFIX_LEN + room.max_size).saturating_add(1) - before;
        if before > PREFIX_LEN && self.message.capacity() - before < PIECE.min(most) {
            let more = before.min(most);
            room.take(before + more)?;
            self.message.reserve_exact(more);
        }
        let here = PIECE.min(most);
        let read = self.decoder.by_ref().take(here as u64).read_to_end(&mut self.message).map_err(|why| {
            Status::internal(format!("a message that is marked as compressed with gzip is not: {why}"))
        })?;
        Ok(read < here || read == most)
    }

    /// The message, with its size in the prefix.
    fn finish(&mut self, room: &Room) -> Result<Bytes, Status> {
        let mut message = mem::take(&mut self.message);
        let size = message.len() - PREFIX_LEN;
        let length = u32::try_from(size).ok().filter(|_| size <= room.max_size);
        let length = length.ok_or_else(|| {
            Status::resource_exhausted(format!(
                "a message has more bytes, once it is decompressed, than the limit, {}",
                room.max_size
            ))
        })?;
        message[1..PREFIX_LEN].copy_from_slice(&length.to_be_bytes());
        room.take(message.len())?;
        Ok(message.into())
    }
}
