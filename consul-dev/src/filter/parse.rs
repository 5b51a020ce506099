//! The parser of expressions, with the positions and expectations of Consul's error texts.

use super::{Expr, Operator};
use crate::response::ErrorResponse;

/// The limit on nested parentheses and `not`.
const MAX_DEPTH: usize = 64;

/// The limit on comparisons in one filter. Consul has no such limit: it evaluates 5,000 of them, and takes minutes for
/// ten nested parentheses.
const MAX_TERMS: usize = 64;

/// The error of an invalid expression.
#[derive(Debug)]
pub(super) enum ParseError {
    /// The text does not follow the grammar; in Consul's words.
    Syntax(String),
    /// The text may follow the grammar, but exceeds a limit of this agent.
    Limit(String),
}

impl From<ParseError> for ErrorResponse {
    fn from(error: ParseError) -> Self {
        match error {
            ParseError::Syntax(why) => super::invalid_filter(why),
            ParseError::Limit(why) => Self::bad_request(why),
        }
    }
}

const AFTER_SELECTOR: &str = r#""!=", ".", "==", "[", [ \t\r\n] or [a-zA-Z0-9_]"#;
const OPERATOR: &str = r#""!=", "==", "contains", "in", "is", "matches", "not" or [ \t\r\n]"#;
const VALUE: &str = r#""-", "0", "\"", "`", [ \t\r\n], [1-9] or [a-zA-Z]"#;
const TERM: &str = r#""(", "-", "0", "\"", "`", "not", [ \t\r\n], [1-9] or [a-zA-Z]"#;
const SPACE: &str = r"[ \t\r\n]";
const AFTER_LITERAL: &str = r"[ \t\r\n] or EOF";
const AFTER_WORD: &str = r#"".", "[", [ \t\r\n], [a-zA-Z0-9_] or EOF"#;
const BETWEEN_TERMS: &str = r#""and", "or", [ \t\r\n] or EOF"#;
const IN: &str = r#""in", "not" or [ \t\r\n]"#;

/// Reads a whole expression.
pub(super) fn expression(text: &str) -> Result<Expr, ParseError> {
    let mut parser = Parser { text, at: 0, depth: 0, terms: 0 };
    parser.space();
    let expr = parser.or()?;
    let after = parser.at;
    parser.space();
    if parser.rest().is_empty() {
        return Ok(expr);
    }
    // The last word could have continued.
    if after == parser.at {
        let ends_with_quote = text[..after].ends_with(['"', '`', ')']);
        return Err(parser.expected(if ends_with_quote { AFTER_LITERAL } else { AFTER_WORD }));
    }
    Err(parser.expected(BETWEEN_TERMS))
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    terms: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn position(&self) -> String {
        let before = &self.text[..self.at];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!("{line}:{column} ({})", self.at)
    }

    fn expected(&self, what: &str) -> ParseError {
        ParseError::Syntax(format!("{}: no match found, expected: {what}", self.position()))
    }

    fn broken(&self, rule: &str, why: &str) -> ParseError {
        ParseError::Syntax(format!("{}: rule \"{rule}\": {why}", self.position()))
    }

    fn exceeds(&self, limit: &str) -> ParseError {
        ParseError::Limit(format!(
            "{}: the filter has more than {limit}, the limit of this development agent",
            self.position()
        ))
    }

    /// Skips blanks; returns whether there were any.
    fn space(&mut self) -> bool {
        let rest = self.rest();
        let trimmed = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        self.at += rest.len() - trimmed.len();
        rest.len() != trimmed.len()
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    /// Takes `word` if a blank follows.
    fn word(&mut self, word: &str) -> bool {
        let start = self.at;
        if self.take(word) && self.space() {
            return true;
        }
        self.at = start;
        false
    }

    fn or(&mut self) -> Result<Expr, ParseError> {
        self.chain("or", Self::and, Expr::Or)
    }

    fn and(&mut self) -> Result<Expr, ParseError> {
        self.chain("and", Self::not, Expr::And)
    }

    /// One operand, or several joined by `word`; in a loop, so that their number costs no stack.
    fn chain(
        &mut self,
        word: &str,
        operand: fn(&mut Self) -> Result<Expr, ParseError>,
        join: fn(Vec<Expr>) -> Expr,
    ) -> Result<Expr, ParseError> {
        let first = operand(self)?;
        if !self.connective(word)? {
            return Ok(first);
        }
        let mut operands = vec![first, operand(self)?];
        while self.connective(word)? {
            operands.push(operand(self)?);
        }
        Ok(join(operands))
    }

    fn connective(&mut self, word: &str) -> Result<bool, ParseError> {
        let start = self.at;
        if !self.space() || !self.take(word) {
            self.at = start;
            return Ok(false);
        }
        if !self.space() {
            return Err(self.expected(SPACE));
        }
        Ok(true)
    }

    fn not(&mut self) -> Result<Expr, ParseError> {
        if self.depth == MAX_DEPTH {
            return Err(self.exceeds(&format!("{MAX_DEPTH} parentheses and `not` within each other")));
        }
        self.depth += 1;
        let expr = if self.word("not") {
            self.not().map(|inner| Expr::Not(Box::new(inner)))
        } else if self.take("(") {
            self.space();
            self.or().and_then(|inner| {
                self.space();
                if self.take(")") { Ok(inner) } else { Err(self.broken("grouping", "Unmatched parentheses")) }
            })
        } else {
            self.term()
        };
        self.depth -= 1;
        expr
    }

    fn term(&mut self) -> Result<Expr, ParseError> {
        if self.terms == MAX_TERMS {
            return Err(self.exceeds(&format!("{MAX_TERMS} comparisons")));
        }
        self.terms += 1;
        if !self.rest().starts_with(|c: char| c.is_ascii_alphabetic()) {
            let value = self.literal(TERM)?;
            self.space();
            return self.value_in(value);
        }
        let selector = self.selector();
        let spaced = self.space();
        if self.take("==") {
            return self.with_value(selector, Operator::Equal);
        }
        if self.take("!=") {
            return self.with_value(selector, Operator::NotEqual);
        }
        if !spaced {
            return Err(self.expected(AFTER_SELECTOR));
        }
        self.worded(selector)
    }

    /// The operators that are words.
    fn worded(&mut self, selector: Vec<String>) -> Result<Expr, ParseError> {
        if self.word("contains") {
            return self.with_value(selector, Operator::In);
        }
        if self.take("is") {
            if !self.space() {
                return Err(self.expected(SPACE));
            }
            let operator = if self.word("not") { Operator::IsNotEmpty } else { Operator::IsEmpty };
            if self.take("empty") {
                return Ok(Expr::Match { selector, operator, value: String::new(), keyed: false });
            }
            return Err(self.expected(r#""empty", "not" or [ \t\r\n]"#));
        }
        let start = self.at;
        if self.word("not") {
            if self.word("contains") {
                return self.with_value(selector, Operator::NotIn);
            }
            self.at = start;
        }
        if self.rest().starts_with("matches") || self.rest().starts_with("not matches") {
            return Err(self.broken("match", "this development agent does not support regular expressions"));
        }
        if self.rest().starts_with("in") || self.rest().starts_with("not") {
            return self.value_in(selector.join("."));
        }
        Err(self.expected(OPERATOR))
    }

    fn value_in(&mut self, value: String) -> Result<Expr, ParseError> {
        let operator = if self.word("in") {
            Operator::In
        } else if self.word("not") && self.word("in") {
            Operator::NotIn
        } else {
            return Err(self.expected(IN));
        };
        if !self.rest().starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err(self.expected(r"[ \t\r\n] or [a-zA-Z]"));
        }
        Ok(Expr::Match { selector: self.selector(), operator, value, keyed: false })
    }

    fn with_value(&mut self, selector: Vec<String>, operator: Operator) -> Result<Expr, ParseError> {
        self.space();
        let value = if self.rest().starts_with(|c: char| c.is_ascii_alphabetic()) {
            self.selector().join(".")
        } else {
            self.literal(VALUE)?
        };
        Ok(Expr::Match { selector, operator, value, keyed: false })
    }

    /// Names joined by dots, or keys in brackets.
    fn selector(&mut self) -> Vec<String> {
        let mut parts = vec![self.identifier()];
        loop {
            let start = self.at;
            if self.take(".") && self.rest().starts_with(|c: char| c.is_ascii_alphabetic()) {
                parts.push(self.identifier());
                continue;
            }
            self.at = start;
            if self.take("[") {
                self.space();
                let key = self.quoted();
                self.space();
                if let (Some(key), true) = (key, self.take("]")) {
                    parts.push(key);
                    continue;
                }
            }
            self.at = start;
            return parts;
        }
    }

    fn identifier(&mut self) -> String {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        self.at += end;
        rest[..end].to_owned()
    }

    /// A text in quotes or a number.
    fn literal(&mut self, expectation: &str) -> Result<String, ParseError> {
        let rest = self.rest();
        if rest.starts_with(['"', '`']) {
            return self.quoted().ok_or_else(|| {
                self.at = self.text.len();
                self.broken("string", "Unterminated string literal")
            });
        }
        let sign = usize::from(rest.starts_with('-'));
        let digits =
            rest[sign..].find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len() - sign);
        let end = sign + digits;
        if digits == 0 {
            return Err(self.expected(expectation));
        }
        if rest[end..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
            self.at += end;
            return Err(self.broken("number", "Invalid number literal"));
        }
        self.at += end;
        Ok(rest[..end].to_owned())
    }

    fn quoted(&mut self) -> Option<String> {
        let rest = self.rest();
        let quote = rest.chars().next().filter(|quote| matches!(quote, '"' | '`'))?;
        let mut text = String::new();
        let mut escaped = false;
        for (at, c) in rest.char_indices().skip(1) {
            match c {
                _ if escaped => {
                    text.push(match c {
                        'n' => '\n',
                        't' => '\t',
                        'r' => '\r',
                        other => other,
                    });
                    escaped = false;
                }
                '\\' if quote == '"' => escaped = true,
                _ if c == quote => {
                    self.at += at + 1;
                    return Some(text);
                }
                other => text.push(other),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Filter, INSTANCE};

    #[test]
    fn a_filter_is_bounded_and_as_much_as_is_allowed_is_evaluated() {
        let many = |count: usize, word: &str| vec!["Service.ID == a"; count].join(word);
        let nested = |count: usize| format!("{}Service.ID == a{}", "(".repeat(count), ")".repeat(count));
        // 64 terms at the bottom of 63 parentheses cost the most stack.
        for text in [
            many(64, " or "),
            many(64, " and "),
            nested(63),
            format!("{}Service.ID == a", "not ".repeat(63)),
            format!("{}{}{}", "(".repeat(63), many(64, " or "), ")".repeat(63)),
        ] {
            let item = serde_json::json!({"Service": {"ID": "b"}});
            Filter::parse(&text, INSTANCE).unwrap().matches(&item);
        }
        for (text, limit) in [
            (many(65, " or "), "64 comparisons"),
            (many(2_000, " or "), "64 comparisons"),
            (many(20_000, " and "), "64 comparisons"),
            (many(20_000, " or not "), "64 comparisons"),
            (nested(20_000), "64 parentheses"),
            (format!("{}Service.ID == a", "not ".repeat(20_000)), "64 parentheses"),
        ] {
            let answer = Filter::parse(&text, INSTANCE).unwrap_err().into_response();
            assert_eq!(answer.status(), 400);
            let got = failure(&text);
            assert!(got.contains(&format!("more than {limit}")), "{got}");
        }
    }

    fn failure(text: &str) -> String {
        let answer = Filter::parse(text, INSTANCE).unwrap_err();
        format!("{answer:?}")
    }

    #[test]
    fn mistakes_are_named_as_the_real_parser_names_them() {
        for (text, message) in [
            ("foo", r#"1:4 (3): no match found, expected: \"!=\", \".\", \"==\""#),
            ("Service.ID = a", r#"1:12 (11): no match found, expected: \"!=\", \"==\", \"contains\""#),
            ("Service.Meta.x ==", r#"1:18 (17): no match found, expected: \"-\", \"0\""#),
            ("(Service.ID==a", r#"1:15 (14): rule \"grouping\": Unmatched parentheses"#),
            ("Service.ID == \"", r#"1:16 (15): rule \"string\": Unterminated string literal"#),
            ("Service.ID == a b", r#"1:17 (16): no match found, expected: \"and\", \"or\""#),
            ("Service.Foo == a", r#"Selector \"Service.Foo\" is not valid"#),
            ("Service.Tags == a", r#"Invalid match operator \"Equal\" for selector \"Service.Tags\""#),
            ("Service.Port == abc", r#"strconv.ParseInt: parsing \"abc\": invalid syntax"#),
        ] {
            let got = failure(text).replace("\\\\\"", "\\\"");
            assert!(got.contains(message), "{text}: {got}");
        }
    }
}
