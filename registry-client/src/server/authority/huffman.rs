//! The short codes of HPACK's Huffman code, RFC 7541 appendix B: every valid
//! character of an authority, and those that occur in invalid ones.

/// The symbols of each length in the order of their codes, and the first code.
const CODES: [(u32, u32, &[u8]); 8] = [
    (5, 0x0, b"012aceiost"),
    (6, 0x14, b" %-./3456789=A_bdfghlmnpru"),
    (7, 0x5c, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, 0xf8, b"&*,;XZ"),
    (10, 0x3f8, b"!\"()?"),
    (11, 0x7fa, b"'+|"),
    (12, 0xffa, b"#>"),
    (13, 0x1ff8, b"\0$@[]~"),
];

/// The longest of these codes, in bits.
const MAX_LEN: u32 = 13;

/// A symbol with a longer code.
#[derive(Debug)]
pub(super) struct LongCode;

/// The bits of a symbol that have arrived.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bits {
    code: u32,
    len: u32,
}

impl Bits {
    /// Adds a bit; returns the symbol if that was its last bit, or an error for
    /// a longer code.
    pub(super) fn push(&mut self, bit: bool) -> Result<Option<u8>, LongCode> {
        self.code = self.code << 1 | u32::from(bit);
        self.len += 1;
        let Some((_, first, symbols)) = CODES.iter().find(|(len, ..)| *len == self.len) else {
            return if self.len > MAX_LEN { Err(LongCode) } else { Ok(None) };
        };
        let found = self.code.checked_sub(*first).and_then(|nth| symbols.get(nth as usize)).copied();
        if found.is_some() {
            *self = Self::default();
        }
        Ok(found)
    }
}

#[cfg(test)]
pub(super) fn encode(text: &[u8]) -> Vec<u8> {
    let mut bits = Vec::new();
    for symbol in text {
        let found = CODES.iter().find_map(|(len, first, symbols)| {
            let nth = symbols.iter().position(|known| known == symbol)?;
            Some((*len, first + u32::try_from(nth).unwrap()))
        });
        let (len, code) = found.unwrap();
        bits.extend((0..len).rev().map(|bit| code >> bit & 1 == 1));
    }
    let byte =
        |bits: &[bool]| (0..8).fold(0, |byte, at| byte << 1 | u8::from(*bits.get(at).unwrap_or(&true)));
    bits.chunks(8).map(byte).collect()
}

#[cfg(test)]
pub(super) fn decode(coded: &[u8]) -> Vec<u8> {
    let mut bits = Bits::default();
    let all = coded.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1));
    all.filter_map(|bit| bits.push(bit).unwrap_or_default()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_code_of_the_rfc() {
        // RFC 7541, C.4.1 and C.6.1.
        for (text, coded) in [
            ("www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
            ("https://www.example.com", "9d29ad171863c78f0b97c8e9ae82ae43d3"),
            ("Mon, 21 Oct 2013 20:13:21 GMT", "d07abe941054d444a8200595040b8166e082a62d1bff"),
        ] {
            let bytes = encode(text.as_bytes());
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, coded, "{text}");
            assert_eq!(decode(&bytes), text.as_bytes());
        }
    }
}
