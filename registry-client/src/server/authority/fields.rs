//! The first fields of a header block in HPACK (RFC 7541 §6): the length of
//! each follows from its own bytes, whatever the table holds.

use super::text::AuthorityText;

/// The most pseudo-header fields of a request, RFC 9113 §8.3.1 and RFC 8441.
/// They precede all other fields, which are skipped.
const PSEUDO_FIELDS: u8 = 5;

const NAME: &[u8] = b":authority";
/// The index of the name in the static table.
const NAME_INDEX: u32 = 1;

/// The largest length that is accepted: no frame holds more.
const MAX_INTEGER: u32 = 1 << 24;

/// The position of a reader in a header block.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fields {
    step: Step,
    fields_read: u8,
    is_authority: bool,
    is_coded: bool,
    text: AuthorityText,
}

#[derive(Clone, Copy, Debug, Default)]
enum Step {
    /// Before the first byte of a field.
    #[default]
    Field,
    /// Before a further byte of an integer.
    Integer {
        value: u32,
        shift: u32,
        of: Integer,
    },
    /// Before the first byte of a string, which begins its length.
    Length(Integer),
    /// In a name or a value, with so many bytes left.
    Name(u32),
    Value(u32),
    /// After the authority: the rest is skipped.
    Done,
}

/// The meaning of an integer.
#[derive(Clone, Copy, Debug)]
enum Integer {
    /// The index of a whole field, which is skipped.
    Nothing,
    NameIndex,
    NameLength,
    ValueLength,
}

impl Fields {
    /// Reads the next bytes of the block; returns whether an authority ended in
    /// them that cannot be corrected.
    pub(super) fn correct(&mut self, bytes: &mut [u8]) -> bool {
        let mut refused = false;
        let mut bytes = bytes.iter_mut();
        while let Some(byte) = bytes.next() {
            match self.step {
                Step::Done => break,
                // Other values, such as a long path, are skipped at once.
                Step::Value(left) if !self.is_authority && left > 1 => {
                    let more = (left - 1).min(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
                    if more > 0 {
                        bytes.nth(more as usize - 1);
                    }
                    self.step = self.after_value(left - 1 - more);
                }
                _ => refused |= self.correct_byte(byte),
            }
        }
        refused
    }

    fn correct_byte(&mut self, byte: &mut u8) -> bool {
        let was_authority = self.is_authority;
        self.step = match self.step {
            Step::Field => self.begin(*byte),
            Step::Integer { value, shift, of } => {
                let value = value.saturating_add(u32::from(*byte & 0x7f) << shift);
                match (value <= MAX_INTEGER, *byte & 0x80 != 0) {
                    (false, _) => Step::Done,
                    // At most four bytes: `MAX_INTEGER` has 25 bits.
                    (true, true) if shift > 21 => Step::Done,
                    (true, true) => Step::Integer { value, shift: shift + 7, of },
                    (true, false) => self.after_integer(value, of),
                }
            }
            Step::Length(of) => {
                self.is_coded = *byte & 0x80 != 0;
                self.integer(*byte, 0x7f, of)
            }
            Step::Name(left) => {
                let at = NAME.len().wrapping_sub(left as usize);
                self.is_authority &= NAME.get(at) == Some(byte);
                if left > 1 { Step::Name(left - 1) } else { Step::Length(Integer::ValueLength) }
            }
            Step::Value(left) => {
                if self.is_authority {
                    if self.is_coded { self.text.coded(byte) } else { self.text.plain(byte) }
                }
                self.after_value(left - 1)
            }
            Step::Done => Step::Done,
        };
        was_authority && matches!(self.step, Step::Done) && self.text.is_refused()
    }

    /// The step after a field's first byte, RFC 7541 §6.
    fn begin(&mut self, byte: u8) -> Step {
        let (mask, of) = match byte {
            0x80.. => (0x7f, Integer::Nothing),
            0x40.. => (0x3f, Integer::NameIndex),
            // A dynamic table size update.
            0x20.. => return self.integer(byte, 0x1f, Integer::Nothing),
            _ => (0x0f, Integer::NameIndex),
        };
        if self.fields_read == PSEUDO_FIELDS {
            return Step::Done;
        }
        self.fields_read += 1;
        self.integer(byte, mask, of)
    }

    /// The step after the first byte of an integer, RFC 7541 §5.1.
    fn integer(&mut self, byte: u8, mask: u8, of: Integer) -> Step {
        let value = u32::from(byte & mask);
        if byte & mask == mask {
            Step::Integer { value, shift: 0, of }
        } else {
            self.after_integer(value, of)
        }
    }

    fn after_integer(&mut self, value: u32, of: Integer) -> Step {
        match (of, value) {
            (Integer::Nothing, _) => Step::Field,
            (Integer::NameIndex, 0) => Step::Length(Integer::NameLength),
            (Integer::NameIndex, index) => {
                self.is_authority = index == NAME_INDEX;
                Step::Length(Integer::ValueLength)
            }
            (Integer::NameLength, 0) => Step::Done,
            (Integer::NameLength, len) => {
                self.is_authority = !self.is_coded && len as usize == NAME.len();
                Step::Name(len)
            }
            (Integer::ValueLength, len) => {
                self.text = AuthorityText::default();
                self.after_value(len)
            }
        }
    }

    fn after_value(&self, left: u32) -> Step {
        match left {
            // A request has one authority.
            0 if self.is_authority => Step::Done,
            0 => Step::Field,
            left => Step::Value(left),
        }
    }
}
