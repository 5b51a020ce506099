//! Comparing JSON with what is not known beforehand left open.

use serde_json::Value;

/// Compares `actual` with `wanted`, in which `"<uuid>"`, `"<index>"` (a number), `"<text>"` and `"<any>"` stand for
/// anything of that kind. Objects must have exactly the wanted members; `"<more>": true` allows others.
pub(crate) fn compare(wanted: &Value, actual: &Value) -> Result<(), String> {
    compare_at("$", wanted, actual)
}

fn compare_at(at: &str, wanted: &Value, actual: &Value) -> Result<(), String> {
    let fits = match (wanted, actual) {
        (Value::String(open), _) if open == "<any>" => true,
        (Value::String(open), Value::String(text)) if open == "<uuid>" => is_uuid(text),
        (Value::String(open), Value::String(_)) if open == "<text>" => true,
        (Value::String(open), Value::Number(number)) if open == "<index>" => number.is_u64(),
        (Value::Object(wanted), Value::Object(actual)) => {
            let open = wanted.contains_key("<more>");
            let surplus = actual.keys().find(|key| !wanted.contains_key(*key));
            if let (false, Some(key)) = (open, surplus) {
                return Err(format!("{at}.{key} is there but should not be"));
            }
            for (key, wanted) in wanted.iter().filter(|(key, _)| *key != "<more>") {
                let actual = actual.get(key).ok_or_else(|| format!("{at}.{key} is missing"))?;
                compare_at(&format!("{at}.{key}"), wanted, actual)?;
            }
            true
        }
        (Value::Array(wanted), Value::Array(actual)) => {
            if wanted.len() != actual.len() {
                return Err(format!("{at} has {} elements, not {}", actual.len(), wanted.len()));
            }
            for (position, (wanted, actual)) in wanted.iter().zip(actual).enumerate() {
                compare_at(&format!("{at}[{position}]"), wanted, actual)?;
            }
            true
        }
        _ => wanted == actual,
    };
    if fits { Ok(()) } else { Err(format!("{at} is {actual}, not {wanted}")) }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.char_indices().all(|(at, c)| match at {
            8 | 13 | 18 | 23 => c == '-',
            _ => c.is_ascii_hexdigit(),
        })
}
