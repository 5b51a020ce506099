//! An answer's body, compressed where it is worth it.

use std::{
    io::{self, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes, BytesMut};
use flate2::{Compression, write::GzEncoder};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{MIN_SIZE, PREFIX_LEN};

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
    /// Unless `is_on`, the body stays as it is.
    pub(super) fn new(body: R, is_on: bool) -> Self {
        Self { body, messages: is_on.then(Messages::default) }
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
        let polled = ready!(this.body.poll_frame(cx));
        let Some(messages) = this.messages else { return Poll::Ready(polled) };
        Poll::Ready(polled.map(|frame| frame.map(|frame| frame.map_data(|data| messages.compress(data)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.messages.is_none() { self.body.size_hint() } else { SizeHint::default() }
    }
}

/// Where a body is between its messages. tonic hands out whole messages; one
/// that comes in parts is left as it is.
#[derive(Debug, Default)]
struct Messages {
    /// How many bytes are left of a message that came in parts.
    left: usize,
    /// A prefix came in parts: nothing is known of what follows.
    is_lost: bool,
}

impl Messages {
    fn compress(&mut self, data: Bytes) -> Bytes {
        let mut out = BytesMut::new();
        // Up to here, `out` has what `data` has.
        let mut done = 0;
        let mut at = self.left.min(data.len());
        self.left -= at;
        while at < data.len() && !self.is_lost {
            let Some((&[flag, length @ ..], rest)) = data[at..].split_first_chunk::<PREFIX_LEN>() else {
                self.is_lost = true;
                break;
            };
            let length = u32::from_be_bytes(length) as usize;
            let here = length.min(rest.len());
            self.left = length - here;
            let end = at + PREFIX_LEN + here;
            if flag == 0 && self.left == 0 && length >= MIN_SIZE {
                out.put(&data[done..at]);
                done = if packed(&rest[..here], &mut out).is_ok() { end } else { at };
            }
            at = end;
        }
        if done == 0 {
            return data;
        }
        out.put(&data[done..]);
        out.freeze()
    }
}

/// Appends `message`, compressed and with its prefix, where that is smaller.
fn packed(message: &[u8], out: &mut BytesMut) -> io::Result<()> {
    let mut encoder = GzEncoder::new(vec![1, 0, 0, 0, 0], Compression::fast());
    encoder.write_all(message)?;
    let mut packed = encoder.finish()?;
    let size = packed.len() - PREFIX_LEN;
    let length = u32::try_from(size).ok().filter(|_| size < message.len());
    let length = length.ok_or(io::ErrorKind::InvalidData)?;
    packed[1..PREFIX_LEN].copy_from_slice(&length.to_be_bytes());
    out.put(&packed[..]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

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
        let texts = [&small, &large, &random, &large, &small, &Vec::new(), &random];
        let expected: Vec<_> = [0, 1, 0, 1, 0, 0, 0].into_iter().zip(texts.map(Vec::clone)).collect();
        let body: Vec<u8> = texts.iter().flat_map(|text| message(text)).collect();
        let mut messages = Messages::default();
        assert_eq!(read(&messages.compress(body.into())), expected);
    }

    #[test]
    fn messages_in_parts_come_out_as_they_were() {
        let texts = [vec![b'x'; 3_000], vec![b'y'; 10], vec![b'z'; 2_000]];
        let body: Vec<u8> = texts.iter().flat_map(|text| message(text)).collect();
        for size in 1..body.len() {
            let mut messages = Messages::default();
            let out: Vec<u8> = body
                .chunks(size)
                .flat_map(|piece| messages.compress(Bytes::copy_from_slice(piece)))
                .collect();
            let got: Vec<_> = read(&out).into_iter().map(|(_, text)| text).collect();
            assert_eq!(got, texts, "pieces of {size}");
        }
    }
}
