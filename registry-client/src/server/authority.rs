//! The correction of invalid `:authority` fields.
//!
//! gRPC core's clients (C++, Python, Ruby, PHP) whose target lists addresses,
//! `ipv4:10.0.0.1:50051,10.0.0.2:50051`, or is a socket, `unix:/run/a.sock`,
//! send the target as it is; grpc-js and proxies do so too. The `http` crate,
//! and therefore `h2`, rejects such an authority and resets the stream: every
//! call fails with INTERNAL and nothing is logged. No service reads the
//! authority, so invalid bytes are overwritten before HTTP/2 is parsed, one for
//! one. Lengths do not change, and later requests may refer to the field by its
//! HPACK index.
//!
//! A few cannot be corrected: an empty one, one with an unclosed bracket, or
//! with a percent sign in Huffman code (which differs from a space by one bit).
//! These are logged.

use std::mem;

mod fields;
mod huffman;
mod text;

use fields::Fields;

/// The length of a client's preface, RFC 9113 §3.4.
const PREFACE_LEN: usize = 24;
/// RFC 9113 §4.1.
const FRAME_HEAD_LEN: usize = 9;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;

/// The frames of one peer, as far as they have arrived.
#[derive(Debug)]
pub(super) struct Authorities {
    at: FramePosition,
    head: [u8; FRAME_HEAD_LEN],
    fields: Fields,
    refused: bool,
}

/// The position in the sequence of frames.
#[derive(Clone, Copy, Debug)]
enum FramePosition {
    /// In a frame's head, of which so many bytes have arrived.
    Head(usize),
    /// In a payload without fields, with so many bytes left.
    Payload(usize),
    /// In a header block with `left` bytes, of which the first `lead` precede
    /// the fields.
    Block { lead: usize, left: usize },
}

impl Authorities {
    pub(super) fn new() -> Self {
        Self {
            at: FramePosition::Payload(PREFACE_LEN),
            head: [0; FRAME_HEAD_LEN],
            fields: Fields::default(),
            refused: false,
        }
    }

    /// Reads the next bytes from the peer and overwrites invalid ones.
    pub(super) fn correct(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let rest = bytes;
            let here;
            (self.at, here) = match self.at {
                FramePosition::Head(have) => {
                    let here = rest.len().min(FRAME_HEAD_LEN - have);
                    self.head[have..][..here].copy_from_slice(&rest[..here]);
                    let complete = have + here == FRAME_HEAD_LEN;
                    (if complete { self.begin_frame() } else { FramePosition::Head(have + here) }, here)
                }
                FramePosition::Payload(left) => {
                    let here = rest.len().min(left);
                    (FramePosition::Payload(left - here), here)
                }
                FramePosition::Block { lead, left } => {
                    let here = rest.len().min(left);
                    let before = lead.min(here);
                    self.refused |= self.fields.correct(&mut rest[before..here]);
                    (FramePosition::Block { lead: lead - before, left: left - here }, here)
                }
            };
            if let FramePosition::Payload(0) | FramePosition::Block { left: 0, .. } = self.at {
                self.at = FramePosition::Head(0);
            }
            bytes = &mut rest[here..];
        }
    }

    /// Returns whether an authority that cannot be corrected has arrived since
    /// the last call.
    pub(super) fn take_refused(&mut self) -> bool {
        mem::take(&mut self.refused)
    }

    fn begin_frame(&mut self) -> FramePosition {
        let [a, b, c, kind, flags, ..] = self.head;
        let left = u32::from_be_bytes([0, a, b, c]) as usize;
        match kind {
            HEADERS => {
                self.fields = Fields::default();
                let flag = |flag, bytes| if flags & flag != 0 { bytes } else { 0 };
                FramePosition::Block { lead: flag(PADDED, 1) + flag(PRIORITY, 5), left }
            }
            CONTINUATION => FramePosition::Block { lead: 0, left },
            _ => FramePosition::Payload(left),
        }
    }
}

/// Fuzzes the correction: bytes are overwritten and never moved, however they
/// are split.
#[cfg(feature = "fuzzing")]
pub fn fuzz_http2_head(data: &[u8]) {
    let Some((&cut, data)) = data.split_first() else { return };
    let (mut whole, mut pieces) = (data.to_vec(), data.to_vec());
    let (mut one, mut other) = (Authorities::new(), Authorities::new());
    one.correct(&mut whole);
    pieces.chunks_mut(usize::from(cut).max(1)).for_each(|piece| other.correct(piece));
    assert_eq!((&whole, one.take_refused()), (&pieces, other.take_refused()));
    let mut again = whole.clone();
    Authorities::new().correct(&mut again);
    assert_eq!(again, whole, "what is allowed stays");
}

#[cfg(test)]
mod tests {
    use http::uri::Authority;
    use proptest::prelude::*;

    use super::*;

    /// The encodings of a field.
    #[derive(Clone, Copy, Debug)]
    enum Form {
        /// By the static table's name.
        Indexed,
        /// Name and all, as gRPC core does.
        Literal,
        /// By the static table's name, and in Huffman's code.
        Huffman,
    }
    use Form::{Huffman, Indexed, Literal};

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.extend(payload);
        frame
    }

    /// An HPACK string.
    fn string(mask: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match u8::try_from(bytes.len()) {
            Ok(len @ ..127) => out.push(mask | len),
            _ => {
                let mut more = bytes.len() - 127;
                out.push(mask | 127);
                while more >= 128 {
                    out.push(u8::try_from(more % 128).unwrap() | 128);
                    more /= 128;
                }
                out.push(u8::try_from(more).unwrap());
            }
        }
        out.extend(bytes);
        out
    }

    /// A header block with that authority, and where its value is in it.
    fn block(form: Form, authority: &[u8]) -> (Vec<u8>, usize, usize) {
        let mut block = vec![0x3f, 0xe1, 0x1f, 0x83];
        block.push(0x40);
        block.extend(string(0, b":path"));
        block.extend(string(0, b"/test.v1.Strict/One"));
        let coded = huffman::encode(authority);
        let (value, mask) = match form {
            Indexed | Literal => (authority, 0),
            Huffman => (&coded[..], 0x80),
        };
        match form {
            Indexed | Huffman => block.push(0x41),
            Literal => {
                block.push(0x40);
                block.extend(string(0, b":authority"));
            }
        }
        block.extend(string(mask, value));
        let end = block.len();
        block.push(0x86);
        block.extend([0x10]);
        block.extend(string(0, b"x-later"));
        block.extend(string(0, b"a/b:c:d%"));
        (block, end - value.len(), end)
    }

    /// The authority as HTTP/2 gets it, and whether it was said to be refused.
    fn read(form: Form, authority: &[u8], size: usize) -> (Vec<u8>, bool) {
        let (block, from, to) = block(form, authority);
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(4, 0, &[]));
        let at = bytes.len() + FRAME_HEAD_LEN;
        bytes.extend(frame(HEADERS, 4, &block));
        bytes.extend(frame(0, 1, b"a:b:c/%"));
        let sent = bytes.clone();
        let mut authorities = Authorities::new();
        for piece in bytes.chunks_mut(size) {
            authorities.correct(piece);
        }
        let value = at + from..at + to;
        assert_eq!(bytes[..value.start], sent[..value.start], "before the authority");
        assert_eq!(bytes[value.end..], sent[value.end..], "after the authority");
        let value = &bytes[value];
        let value = if let Huffman = form { huffman::decode(value) } else { value.to_vec() };
        (value, authorities.take_refused())
    }

    fn is_valid(authority: &[u8]) -> bool {
        Authority::try_from(authority).is_ok()
    }

    #[test]
    fn what_clients_send_is_made_an_authority_however_it_is_cut() {
        for (sent, plain, coded) in [
            (
                "127.0.0.1:50051,127.0.0.1:50052",
                "127.0.0.1:50051,127.0.0.1-50052",
                "127.0.0.1:50051,127.0.0.1B50052",
            ),
            ("[::1]:50051,[::1]:50052", "[::1]:50051,---1--50052", "[::1]:50051,@BB1~B50052"),
            ("a:1,b:2,c:3", "a:1,b-2,c-3", "a:1,bB2,cB3"),
            ("/run/a.sock", "-run-a.sock", "3run3a.sock"),
            ("extension/k8s/auth", "extension-k8s-auth", "extension3k8s3auth"),
        ] {
            for size in 1..200 {
                for (form, expected) in [(Indexed, plain), (Literal, plain), (Huffman, coded)] {
                    let (got, refused) = read(form, sent.as_bytes(), size);
                    assert_eq!(String::from_utf8(got).unwrap(), expected, "{form:?}");
                    assert!(is_valid(expected.as_bytes()) && !refused, "{expected}");
                }
            }
        }
        let (got, refused) = read(Literal, b"tmp%2Fsrv%2Fu.sock", 7);
        assert_eq!((got.as_slice(), refused), (&b"tmp-2Fsrv-2Fu.sock"[..], false));
    }

    #[test]
    fn what_cannot_be_helped_is_said_to_be() {
        for form in [Indexed, Literal, Huffman] {
            for authority in ["", "[::1", "a@"] {
                assert!(read(form, authority.as_bytes(), 3).1, "{form:?} `{authority}`");
            }
        }
        assert!(read(Huffman, b"tmp%2Fu.sock", 3).1);
    }

    #[test]
    fn a_long_path_before_it_and_padding_around_it_change_nothing() {
        let mut payload = vec![3, 0, 0, 0, 0, 16, 0x44];
        payload.extend(string(0, format!("/{}", "a:b:c".repeat(200)).as_bytes()));
        payload.push(0x41);
        payload.extend(string(0, b"a:1,b:2"));
        let (first, second) = payload.split_at(300);
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(HEADERS, PADDED | PRIORITY, first));
        bytes.extend(frame(CONTINUATION, 4, second));
        for size in [1, 3, 10, 5_000] {
            let mut bytes = bytes.clone();
            let mut authorities = Authorities::new();
            bytes.chunks_mut(size).for_each(|piece| authorities.correct(piece));
            assert!(bytes.ends_with(b"a:1,b-2"), "pieces of {size}");
            assert_eq!(bytes.iter().filter(|byte| **byte == b':').count(), 401, "pieces of {size}");
        }
    }

    proptest! {
        #[test]
        fn what_is_an_authority_stays_as_it_is_and_all_else_becomes_one(
            authority in "[a1:/%,.-]{0,3}(\\[[a:%]{0,4}\\]?)?[a1:/,\\[\\]%.]{0,8}",
            size in 1_usize..40,
        ) {
            for form in [Indexed, Literal, Huffman] {
                let (got, refused) = read(form, authority.as_bytes(), size);
                prop_assert_eq!(!is_valid(&got), refused, "{:?} {:?}", form, got);
                // The `http` crate forgets what comes before a bracket.
                let begins = !authority.contains('[') || authority.starts_with('[');
                if begins && is_valid(authority.as_bytes()) {
                    prop_assert_eq!(&got[..], authority.as_bytes());
                }
            }
        }

        #[test]
        fn whatever_comes_is_followed(bytes in prop::collection::vec(any::<u8>(), 0..400), size in 1_usize..50) {
            let mut bytes = bytes;
            let mut authorities = Authorities::new();
            bytes.chunks_mut(size).for_each(|piece| authorities.correct(piece));
            let mut bytes = frame(HEADERS, 4, &bytes);
            Authorities { at: FramePosition::Head(0), ..Authorities::new() }.correct(&mut bytes);
        }
    }
}
