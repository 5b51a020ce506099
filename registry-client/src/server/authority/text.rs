//! The value of one `:authority`, byte by byte.

use std::mem;

use super::huffman::{Bits, NotShort};

/// What stands where something stood that is not allowed.
const FILLER: u8 = b'-';

/// A value that is being read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Text {
    begun: bool,
    bracket: Bracket,
    /// A colon has come that a port follows.
    colon: bool,
    /// Nothing has come since an `@`.
    after_at: bool,
    is_beyond_help: bool,
    bits: Bits,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Bracket {
    #[default]
    None,
    Open,
    Closed,
}

impl Text {
    /// The next byte of a value that is written as it is.
    pub(super) fn plain(&mut self, byte: &mut u8) {
        if !self.takes(*byte) {
            *byte = FILLER;
        }
    }

    /// The next byte of a value in Huffman's code. A symbol is changed by its
    /// last bit alone, for the bits before may have been handed on.
    pub(super) fn coded(&mut self, byte: &mut u8) {
        for bit in (0..8).rev() {
            if self.is_beyond_help {
                return;
            }
            match self.bits.push(*byte >> bit & 1 == 1) {
                Ok(None) => {}
                Ok(Some(symbol)) if self.takes(symbol) => {}
                // These become B, 3, @ and ~.
                Ok(Some(symbol @ (b':' | b'/' | b'[' | b']'))) => {
                    *byte ^= 1 << bit;
                    self.after_at = symbol == b'[';
                }
                Ok(Some(_)) | Err(NotShort) => self.is_beyond_help = true,
            }
        }
    }

    /// Returns whether the value that ends here is refused.
    pub(super) fn is_refused(&self) -> bool {
        !self.begun || self.is_beyond_help || self.after_at || self.bracket == Bracket::Open
    }

    /// Returns whether an authority may go on with this byte: what RFC 3986 has
    /// in a host and a port, and the `http` crate takes.
    fn takes(&mut self, byte: u8) -> bool {
        self.begun = true;
        self.after_at = byte == b'@';
        match (byte, self.bracket) {
            (b'[', Bracket::None) => {
                self.bracket = Bracket::Open;
                true
            }
            (b']', Bracket::Open) => {
                (self.bracket, self.colon) = (Bracket::Closed, false);
                true
            }
            (b':' | b'%', Bracket::Open) => true,
            (b':', _) => !mem::replace(&mut self.colon, true),
            (b'@', _) => {
                self.colon = false;
                true
            }
            (byte, _) => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte),
        }
    }
}
