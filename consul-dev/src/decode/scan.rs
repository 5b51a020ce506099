//! A JSON parser with the error texts of Consul's decoder.

use super::DecodeError;

/// The limit on nesting; deeper input is rejected.
const MAX_DEPTH: usize = 128;

/// A JSON value; object members keep their order, numbers their text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Number(String),
    String(String),
    Array(Vec<Self>),
    Object(Vec<(String, Self)>),
}

impl Json {
    /// The decoder's name for this kind of value.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Number(_) => "number",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
        }
    }
}

/// Parses the first value of `text`; the rest is ignored, as in Consul.
///
/// # Errors
/// When a character is invalid, or the input ends early.
pub(crate) fn parse(text: &[u8]) -> Result<Json, DecodeError> {
    let mut scanner = Scanner { rest: text, depth: 0 };
    scanner.skip_space();
    if scanner.rest.is_empty() {
        return Err(DecodeError::new("EOF"));
    }
    scanner.value()
}

struct Scanner<'a> {
    rest: &'a [u8],
    depth: usize,
}

impl Scanner<'_> {
    fn skip_space(&mut self) {
        while let [b' ' | b'\t' | b'\r' | b'\n', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    fn next(&mut self) -> Result<u8, DecodeError> {
        let (&first, rest) = self.rest.split_first().ok_or_else(|| DecodeError::new("unexpected EOF"))?;
        self.rest = rest;
        Ok(first)
    }

    fn next_token(&mut self) -> Result<u8, DecodeError> {
        self.skip_space();
        self.next()
    }

    fn value(&mut self) -> Result<Json, DecodeError> {
        if self.depth == MAX_DEPTH {
            return Err(DecodeError::new("exceeded max depth"));
        }
        self.depth += 1;
        let value = match self.next_token()? {
            b'{' => self.object(),
            b'[' => self.array(),
            b'"' => self.string().map(Json::String),
            b't' => self.literal("true", Json::Bool(true)),
            b'f' => self.literal("false", Json::Bool(false)),
            b'n' => self.literal("null", Json::Null),
            first @ (b'-' | b'0'..=b'9') => self.number(first),
            other => Err(invalid(other, "looking for beginning of value")),
        };
        self.depth -= 1;
        value
    }

    fn object(&mut self) -> Result<Json, DecodeError> {
        let mut members = Vec::new();
        let mut token = self.next_token()?;
        if token == b'}' {
            return Ok(Json::Object(members));
        }
        loop {
            if token != b'"' {
                return Err(invalid(token, "looking for beginning of object key string"));
            }
            let key = self.string()?;
            match self.next_token()? {
                b':' => {}
                other => return Err(invalid(other, "after object key")),
            }
            members.push((key, self.value()?));
            match self.next_token()? {
                b',' => token = self.next_token()?,
                b'}' => return Ok(Json::Object(members)),
                other => return Err(invalid(other, "after object key:value pair")),
            }
        }
    }

    fn array(&mut self) -> Result<Json, DecodeError> {
        let mut items = Vec::new();
        self.skip_space();
        if let [b']', rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(Json::Array(items));
        }
        loop {
            items.push(self.value()?);
            match self.next_token()? {
                b',' => {}
                b']' => return Ok(Json::Array(items)),
                other => return Err(invalid(other, "after array element")),
            }
        }
    }

    fn literal(&mut self, word: &'static str, value: Json) -> Result<Json, DecodeError> {
        for &expected in word.as_bytes().iter().skip(1) {
            let got = self.next()?;
            if got != expected {
                let context = format!("in literal {word} (expecting '{}')", char::from(expected));
                return Err(invalid(got, &context));
            }
        }
        Ok(value)
    }

    fn number(&mut self, first: u8) -> Result<Json, DecodeError> {
        let mut text = String::from(char::from(first));
        let lead = if first == b'-' { self.digit(&mut text, "in numeric literal")? } else { first };
        if lead != b'0' {
            self.digits(&mut text);
        }
        if self.take(b'.', &mut text) {
            self.digit(&mut text, "after decimal point in numeric literal")?;
            self.digits(&mut text);
        }
        if self.take(b'e', &mut text) || self.take(b'E', &mut text) {
            if !self.take(b'+', &mut text) {
                self.take(b'-', &mut text);
            }
            self.digit(&mut text, "in exponent of numeric literal")?;
            self.digits(&mut text);
        }
        Ok(Json::Number(text))
    }

    fn take(&mut self, expected_byte: u8, text: &mut String) -> bool {
        match self.rest.split_first() {
            Some((&first, rest)) if first == expected_byte => {
                self.rest = rest;
                text.push(char::from(first));
                true
            }
            _ => false,
        }
    }

    fn digit(&mut self, text: &mut String, context: &str) -> Result<u8, DecodeError> {
        match self.next()? {
            digit @ b'0'..=b'9' => {
                text.push(char::from(digit));
                Ok(digit)
            }
            other => Err(invalid(other, context)),
        }
    }

    fn digits(&mut self, text: &mut String) {
        while let [digit @ b'0'..=b'9', rest @ ..] = self.rest {
            text.push(char::from(*digit));
            self.rest = rest;
        }
    }

    /// Reads a string whose opening quote is already taken.
    fn string(&mut self) -> Result<String, DecodeError> {
        let mut bytes = Vec::new();
        loop {
            match self.next()? {
                b'"' => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
                b'\\' => self.escape(&mut bytes)?,
                control @ 0..=0x1f => return Err(invalid(control, "in string literal")),
                other => bytes.push(other),
            }
        }
    }

    fn escape(&mut self, bytes: &mut Vec<u8>) -> Result<(), DecodeError> {
        let plain = match self.next()? {
            b'u' => {
                let decoded = self.unicode()?;
                bytes.extend_from_slice(decoded.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            same @ (b'"' | b'\\' | b'/') => same,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            other => return Err(invalid(other, "in string escape code")),
        };
        bytes.push(plain);
        Ok(())
    }

    /// Reads the four digits after `\u`, and a second escape where the first is half of a pair.
    /// A lone half becomes the replacement character.
    fn unicode(&mut self) -> Result<char, DecodeError> {
        let first = self.hex4()?;
        if let Some(done) = char::from_u32(first) {
            return Ok(done);
        }
        if (0xd800..0xdc00).contains(&first) && self.rest.starts_with(b"\\u") {
            let before = self.rest;
            self.rest = &self.rest[2..];
            let second = self.hex4()?;
            if (0xdc00..0xe000).contains(&second) {
                let pair = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(pair).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.rest = before;
        }
        Ok(char::REPLACEMENT_CHARACTER)
    }

    fn hex4(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0;
        for _ in 0..4 {
            let byte = self.next()?;
            let digit = char::from(byte)
                .to_digit(16)
                .ok_or_else(|| invalid(byte, "in \\u hexadecimal character escape"))?;
            value = value * 16 + digit;
        }
        Ok(value)
    }
}

fn invalid(byte: u8, context: &str) -> DecodeError {
    let shown = match byte {
        b'\'' => r"'\''".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        0..=0x1f | 0x7f => format!(r"'\x{byte:02x}'"),
        _ => format!("'{}'", char::from(byte)),
    };
    DecodeError::new(format!("invalid character {shown} {context}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(text: &str) -> String {
        parse(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn says_what_is_wrong_in_the_decoders_words() {
        assert_eq!(failure(""), "EOF");
        assert_eq!(failure("  "), "EOF");
        assert_eq!(failure("{"), "unexpected EOF");
        assert_eq!(failure("{bad"), "invalid character 'b' looking for beginning of object key string");
        assert_eq!(failure("bad"), "invalid character 'b' looking for beginning of value");
        assert_eq!(failure(r#"{"a" 1}"#), "invalid character '1' after object key");
        assert_eq!(failure(r#"{"a":1 2}"#), "invalid character '2' after object key:value pair");
        assert_eq!(failure("[1 2]"), "invalid character '2' after array element");
        assert_eq!(failure("trux"), "invalid character 'x' in literal true (expecting 'e')");
        assert_eq!(failure("-x"), "invalid character 'x' in numeric literal");
        assert_eq!(failure(&"[".repeat(1000)), "exceeded max depth");
    }

    #[test]
    fn reads_every_kind_of_value() {
        let text = r#" {"a":[1,-2.5e3,true,null],"b":"x\n\u00e9\ud83d\ude00\ud800"} trailing"#;
        let expected = Json::Object(vec![
            (
                "a".into(),
                Json::Array(vec![
                    Json::Number("1".into()),
                    Json::Number("-2.5e3".into()),
                    Json::Bool(true),
                    Json::Null,
                ]),
            ),
            ("b".into(), Json::String("x\né😀\u{fffd}".into())),
        ]);
        assert_eq!(parse(text.as_bytes()).unwrap(), expected);
    }
}
