//! The framing of gRPC messages: their sizes, number and compression, checked
//! as a body passes.

use std::fmt;

/// The flag byte and the length in front of every message ("gRPC over HTTP/2",
/// Length-Prefixed-Message).
const PREFIX_LEN: usize = 5;

/// Reads the prefix of each message as its bytes pass, however they are cut
/// into frames.
#[derive(Debug)]
pub(crate) struct Framing {
    rules: MessageRules,
    /// The part of the next message's prefix that has arrived.
    prefix: [u8; PREFIX_LEN],
    prefix_len: usize,
    /// The bytes of the current message.
    size: usize,
    /// The bytes of it that have not arrived.
    left: usize,
    /// The number of messages that have begun.
    messages: u32,
}

/// The rules for messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MessageRules {
    /// The most bytes of one message.
    pub(crate) max_bytes: usize,
    /// True if messages may be compressed: an encoding was accepted.
    pub(crate) compressed: bool,
    /// True if there is one message only.
    pub(crate) single: bool,
}

/// A violation of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    TooLarge {
        bytes: usize,
        limit: usize,
    },
    /// A compressed message without an accepted encoding.
    Compressed,
    /// A flag byte that is neither 0 nor 1.
    Flag(u8),
    /// A second message where only one is allowed.
    Second,
}

impl Framing {
    #[inline]
    pub(crate) fn new(rules: MessageRules) -> Self {
        Self { rules, prefix: [0; PREFIX_LEN], prefix_len: 0, size: 0, left: 0, messages: 0 }
    }

    /// A framing for messages that this process sends, with only their size
    /// bounded.
    pub(crate) fn up_to(max_bytes: usize) -> Self {
        Self::new(MessageRules { max_bytes, compressed: true, single: false })
    }

    /// Returns whether there is one message only.
    #[inline]
    pub(crate) fn is_single(&self) -> bool {
        self.rules.single
    }

    /// Returns whether there is one message only and it has not begun.
    #[inline]
    pub(crate) fn lacks_message(&self) -> bool {
        self.rules.single && self.messages == 0
    }

    /// The number of messages that have begun.
    pub(crate) fn messages(&self) -> u32 {
        self.messages
    }

    /// The bytes of the message that began last, its prefix included.
    pub(crate) fn size(&self) -> usize {
        PREFIX_LEN + self.size
    }

    /// Returns whether the body may end here: not within a message.
    #[inline]
    pub(crate) fn is_between_messages(&self) -> bool {
        self.prefix_len == 0 && self.left == 0
    }

    /// # Errors
    /// When a message violates the rules.
    #[inline]
    pub(crate) fn pass(&mut self, mut data: &[u8]) -> Result<(), Violation> {
        while !data.is_empty() {
            if self.left > 0 {
                let here = self.left.min(data.len());
                self.left -= here;
                data = &data[here..];
                continue;
            }
            if self.prefix_len == 0
                && let Some((prefix, rest)) = data.split_first_chunk()
            {
                self.begin(prefix)?;
                data = rest;
                continue;
            }
            self.prefix[self.prefix_len] = data[0];
            self.prefix_len += 1;
            data = &data[1..];
            if self.prefix_len == PREFIX_LEN {
                self.prefix_len = 0;
                let prefix = self.prefix;
                self.begin(&prefix)?;
            }
        }
        Ok(())
    }

    #[inline]
    fn begin(&mut self, &[flag, a, b, c, d]: &[u8; PREFIX_LEN]) -> Result<(), Violation> {
        let MessageRules { max_bytes: limit, compressed, single } = self.rules;
        let bytes = u32::from_be_bytes([a, b, c, d]) as usize;
        if flag > 1 {
            return Err(Violation::Flag(flag));
        }
        if flag == 1 && !compressed {
            return Err(Violation::Compressed);
        }
        if bytes > limit {
            return Err(Violation::TooLarge { bytes, limit });
        }
        if single && self.messages > 0 {
            return Err(Violation::Second);
        }
        self.messages = self.messages.saturating_add(1);
        (self.size, self.left) = (bytes, bytes);
        Ok(())
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { bytes, limit } => write!(f, "a message of {bytes} bytes; the limit is {limit}"),
            Self::Compressed => f.write_str("a message flagged as compressed, without a grpc-encoding"),
            Self::Flag(flag) => {
                write!(f, "a message whose first byte is {flag}; gRPC knows 0 and 1")
            }
            Self::Second => f.write_str("a second message; the method answers with one"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(flag: u8, length: usize) -> Vec<u8> {
        let mut framed = vec![flag];
        framed.extend(u32::try_from(length).unwrap().to_be_bytes());
        framed.extend(vec![7; length]);
        framed
    }

    fn single() -> Framing {
        Framing::new(MessageRules { max_bytes: 10, compressed: false, single: true })
    }

    #[test]
    fn messages_up_to_the_limit_pass_however_they_are_cut() {
        let bytes = [message(0, 10), message(1, 0), message(0, 9), message(0, 10)].concat();
        for size in 1..=bytes.len() {
            let mut framing = Framing::up_to(10);
            for piece in bytes.chunks(size) {
                framing.pass(piece).unwrap();
            }
            assert_eq!((framing.messages, framing.is_between_messages()), (4, true));
        }
    }

    #[test]
    fn a_violation_is_found_behind_others_however_the_bytes_are_cut() {
        let cases = [
            (Framing::up_to(10), message(0, 11), Violation::TooLarge { bytes: 11, limit: 10 }),
            (Framing::up_to(10), message(2, 1), Violation::Flag(2)),
            (single(), message(0, 1), Violation::Second),
            (single(), message(1, 1), Violation::Compressed),
        ];
        for (framing, last, expected) in cases {
            let bytes = [message(0, 10), last].concat();
            for size in 1..=bytes.len() {
                let mut framing = Framing::new(framing.rules);
                let found = bytes.chunks(size).find_map(|piece| framing.pass(piece).err());
                assert_eq!(found, Some(expected), "pieces of {size}");
            }
        }
    }

    #[test]
    fn a_body_that_ends_within_a_message_is_noticed() {
        let whole = message(0, 3);
        for length in 0..=whole.len() {
            let mut framing = single();
            framing.pass(&whole[..length]).unwrap();
            assert_eq!(framing.is_between_messages(), length == 0 || length == whole.len(), "{length} bytes");
        }
    }
}
