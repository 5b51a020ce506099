//! Just enough of Rust's grammar to read code as text: comments and strings
//! blanked, tests cut out. Lines keep their numbers.

use std::ops::Range;

/// The code with every comment, string and character literal blanked.
pub(crate) fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let word = out.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let length = literal(rest, word);
        if length == 0 {
            out.push(next);
            rest = &rest[next.len_utf8()..];
        } else {
            out.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
    }
    out
}

/// The length of the comment or literal at the start of `text`, in bytes.
/// `in_word`: the character before belongs to a word, so that `r"` cannot begin
/// here.
fn literal(text: &str, in_word: bool) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return block_comment(text);
    }
    if text.starts_with('"') {
        return quoted(text);
    }
    if text.starts_with('\'') {
        return character(text);
    }
    if in_word {
        return 0;
    }
    let prefix = usize::from(text.starts_with(['b', 'c']));
    let raw = &text[prefix..];
    let hashes = raw.bytes().skip(1).take_while(|byte| *byte == b'#').count();
    if raw.starts_with('r') && raw[1 + hashes..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let start = prefix + hashes + 2;
        return text[start..].find(&end).map_or(text.len(), |at| start + at + end.len());
    }
    0
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if text[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a character literal; 0 for a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some(_)) => text[3..].find('\'').map_or(text.len(), |at| at + 4),
        (Some((_, c)), Some((end, '\''))) if c != '\'' => end + 1,
        _ => 0,
    }
}

/// Blanked code in which every item of `#[cfg(test)]` is blanked too.
pub(crate) fn without_tests(blanked: &str) -> String {
    let mut out = String::with_capacity(blanked.len());
    let mut from = 0;
    for item in test_items(blanked) {
        out.push_str(&blanked[from..item.start]);
        out.extend(blanked[item.clone()].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        from = item.end;
    }
    out.push_str(&blanked[from..]);
    out
}

/// The number of lines of a file without its tests.
pub(crate) fn lines_without_tests(text: &str) -> usize {
    let blanked = blank(text);
    let lines = |item: Range<usize>| blanked[item].lines().count();
    text.lines().count() - test_items(&blanked).into_iter().map(lines).sum::<usize>()
}

/// The ranges of `#[cfg(test)]` with the item behind it, to its `;` or closing
/// brace.
fn test_items(blanked: &str) -> Vec<Range<usize>> {
    const ATTRIBUTE: &str = "#[cfg(test)]";
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = blanked[from..].find(ATTRIBUTE) {
        let start = from + at;
        let item = start + ATTRIBUTE.len();
        from = item + item_end(&blanked[item..]);
        found.push(start..from);
    }
    found
}

fn item_end(item: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in item.char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 && c == '}' {
                    return at + 1;
                }
            }
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    item.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_lifetimes_are_not() {
        let text = "let a = \"x // y\"; // tonic\nfn f<'a>(c: char) { c == '\\'' || c == '\"' }\n/* a /* b */ c */ d";
        let code = blank(text);
        assert_eq!(code.lines().count(), 3);
        assert!(!code.contains("tonic") && !code.contains('y'), "{code}");
        assert!(code.contains("fn f<'a>(c: char) { c ==      || c ==     }"), "{code}");
        assert!(code.trim_end().ends_with(" d") && !code.contains('b'), "{code}");
    }

    #[test]
    fn raw_strings_end_at_their_own_hashes() {
        let code = blank("f(r#\"a \" tonic\"#); g(br\"\\\"); for r in her { h2 }");
        assert!(!code.contains("tonic"), "{code}");
        assert!(code.contains("; g(") && code.contains("for r in her { h2 }"), "{code}");
    }

    #[test]
    fn tests_are_cut_out_and_what_follows_them_stays() {
        let text = "fn a() {}\n#[cfg(test)]\nuse x::{y};\nfn b() {}\n#[cfg(test)]\nmod tests {\n    fn c() { \"}\" }\n}\nfn d() {}\n";
        let code = without_tests(&blank(text));
        assert!(code.contains("fn a") && code.contains("fn b") && code.contains("fn d"), "{code}");
        assert!(!code.contains("fn c") && !code.contains("x::"), "{code}");
        assert_eq!(lines_without_tests(text), 3);
    }
}
