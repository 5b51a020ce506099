//! The value of an `:authority`, byte by byte.

use std::mem;

use super::huffman::{Bits, LongCode};

/// The replacement of an invalid byte.
const FILLER: u8 = b'-';

/// A value during reading.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AuthorityText {
    begun: bool,
    bracket: Bracket,
    /// True after the colon before a port.
    colon: bool,
    /// True directly after an `@`.
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

impl AuthorityText {
    /// Corrects the next byte of a plain value.
    pub(super) fn plain(&mut self, byte: &mut u8) {
        if !self.accepts(*byte) {
            *byte = FILLER;
        }
    }

    /// Corrects the next byte of a value in Huffman code. A symbol is changed
    /// by its last bit alone, because the bits before may have been passed on.
    pub(super) fn coded(&mut self, byte: &mut u8) {
        for bit in (0..8).rev() {
            if self.is_beyond_help {
                return;
            }
            match self.bits.push(*byte >> bit & 1 == 1) {
                Ok(None) => {}
                Ok(Some(symbol)) if self.accepts(symbol) => {}
                // These become B, 3, @ and ~.
                Ok(Some(symbol @ (b':' | b'/' | b'[' | b']'))) => {
                    *byte ^= 1 << bit;
                    self.after_at = symbol == b'[';
                }
                Ok(Some(_)) | Err(LongCode) => self.is_beyond_help = true,
            }
        }
    }

    /// Returns whether the value that ends here cannot be corrected.
    pub(super) fn is_refused(&self) -> bool {
        !self.begun || self.is_beyond_help || self.after_at || self.bracket == Bracket::Open
    }

    /// Returns whether this byte is valid here: in a host or a port by RFC
    /// 3986, and for the `http` crate.
    fn accepts(&mut self, byte: u8) -> bool {
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
