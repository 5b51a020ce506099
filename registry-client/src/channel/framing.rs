//! How large the messages are that pass through a body.

/// The flag byte and the length in front of every message ("gRPC over HTTP/2",
/// Length-Prefixed-Message).
const PREFIX: usize = 5;

/// Reads the length of each message as its bytes pass, however they are cut
/// into frames.
#[derive(Debug)]
pub(super) struct MessageSizes {
    limit: usize,
    /// As much as there is of the next message's prefix.
    prefix: [u8; PREFIX],
    have: usize,
    /// Bytes still to come of the present message.
    left: usize,
}

impl MessageSizes {
    /// Lets no message pass that is longer than `limit` bytes.
    pub(super) fn up_to(limit: usize) -> Self {
        Self { limit, prefix: [0; PREFIX], have: 0, left: 0 }
    }

    /// # Errors
    /// In words, when a message begins that is too long.
    pub(super) fn pass(&mut self, mut data: &[u8]) -> Result<(), String> {
        while !data.is_empty() {
            if self.left > 0 {
                let here = self.left.min(data.len());
                self.left -= here;
                data = &data[here..];
                continue;
            }
            self.prefix[self.have] = data[0];
            self.have += 1;
            data = &data[1..];
            if self.have == PREFIX {
                let [_, a, b, c, d] = self.prefix;
                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                if length > self.limit {
                    return Err(format!("a message of {length} bytes, and {} is the most", self.limit));
                }
                (self.have, self.left) = (0, length);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let mut framed = vec![0];
        framed.extend(u32::try_from(length).unwrap().to_be_bytes());
        framed.extend(vec![7; length]);
        framed
    }

    #[test]
    fn messages_up_to_the_limit_pass_however_they_are_cut() {
        let bytes = [message(10), message(0), message(9), message(10)].concat();
        for size in 1..bytes.len() {
            let mut sizes = MessageSizes::up_to(10);
            for piece in bytes.chunks(size) {
                sizes.pass(piece).unwrap();
            }
        }
    }

    #[test]
    fn a_longer_message_is_found_behind_others_however_it_is_cut() {
        let bytes = [message(10), message(11)].concat();
        for size in 1..=bytes.len() {
            let mut sizes = MessageSizes::up_to(10);
            let error = bytes.chunks(size).find_map(|piece| sizes.pass(piece).err());
            assert_eq!(
                error.as_deref(),
                Some("a message of 11 bytes, and 10 is the most"),
                "pieces of {size}"
            );
        }
    }
}
