//! JSON patterns with placeholders for values that vary.

use serde_json::Value;

/// Compares `actual` with `expected`, in which `"<uuid>"`, `"<index>"` (a number), `"<text>"` and `"<any>"` stand for
/// anything of that kind. Objects must have exactly the expected members; `"<more>": true` allows others.
pub(crate) fn compare(expected: &Value, actual: &Value) -> Result<(), String> {
    compare_at("$", expected, actual)
}

fn compare_at(at: &str, expected: &Value, actual: &Value) -> Result<(), String> {
    let fits = match (expected, actual) {
        (Value::String(open), _) if open == "<any>" => true,
        (Value::String(open), Value::String(text)) if open == "<uuid>" => is_uuid(text),
        (Value::String(open), Value::String(_)) if open == "<text>" => true,
        (Value::String(open), Value::Number(number)) if open == "<index>" => number.is_u64(),
        (Value::Object(expected), Value::Object(actual)) => {
            let open = expected.contains_key("<more>");
            let surplus = actual.keys().find(|key| !expected.contains_key(*key));
            if let (false, Some(key)) = (open, surplus) {
                return Err(format!("{at}.{key} is there but should not be"));
            }
            for (key, expected) in expected.iter().filter(|(key, _)| *key != "<more>") {
                let actual = actual.get(key).ok_or_else(|| format!("{at}.{key} is missing"))?;
                compare_at(&format!("{at}.{key}"), expected, actual)?;
            }
            true
        }
        (Value::Array(expected), Value::Array(actual)) => {
            if expected.len() != actual.len() {
                return Err(format!("{at} has {} elements, not {}", actual.len(), expected.len()));
            }
            for (position, (expected, actual)) in expected.iter().zip(actual).enumerate() {
                compare_at(&format!("{at}[{position}]"), expected, actual)?;
            }
            true
        }
        _ => expected == actual,
    };
    if fits { Ok(()) } else { Err(format!("{at} is {actual}, not {expected}")) }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.char_indices().all(|(at, c)| match at {
            8 | 13 | 18 | 23 => c == '-',
            _ => c.is_ascii_hexdigit(),
        })
}
