//! Request bodies, decoded as strictly as Consul does, with its error texts.

mod scan;

use std::collections::BTreeMap;
use std::fmt;

pub(crate) use scan::{Json, parse};

use crate::duration::GoDuration;

/// The error of a request body, in the words of Consul's decoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DecodeError(String);

impl DecodeError {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The error for a key that the target does not have.
    pub(crate) fn unknown_field(key: &str) -> Self {
        Self(format!("json: unknown field {key:?}"))
    }

    pub(crate) fn mismatch(value: &Json, at: &str, type_name: &str) -> Self {
        let kind = match value {
            Json::Number(text) if type_name == "int" => format!("number {text}"),
            other => other.kind().to_owned(),
        };
        Self(format!("json: cannot unmarshal {kind} into Go struct field {at} of type {type_name}"))
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The members of the object in `body`; `null` is an object without members.
///
/// # Errors
/// When the body is no JSON or no object.
pub(crate) fn object(body: &[u8], target: &str) -> Result<Vec<(String, Json)>, DecodeError> {
    members(parse(body)?, target)
}

/// The members of `value`, which must be an object or `null`.
pub(crate) fn members(value: Json, target: &str) -> Result<Vec<(String, Json)>, DecodeError> {
    match value {
        Json::Object(members) => Ok(members),
        Json::Null => Ok(Vec::new()),
        other => Err(DecodeError(format!(
            "json: cannot unmarshal {} into Go value of type {target}",
            other.kind()
        ))),
    }
}

/// A value that a field of a request can take; `null` leaves the field as it is.
pub(crate) trait Field: Sized {
    /// Reads `value`; `at` names the field in errors (`.Alias.Port`).
    fn read(value: Json, at: &str) -> Result<Self, DecodeError>;
}

/// Reads `value` into `slot` unless it is `null`.
pub(crate) fn read_into<T: Field>(slot: &mut T, value: Json, at: &str) -> Result<(), DecodeError> {
    if value != Json::Null {
        *slot = T::read(value, at)?;
    }
    Ok(())
}

impl Field for String {
    fn read(value: Json, at: &str) -> Result<Self, DecodeError> {
        match value {
            Json::String(text) => Ok(text),
            other => Err(DecodeError::mismatch(&other, at, "string")),
        }
    }
}

impl Field for bool {
    fn read(value: Json, at: &str) -> Result<Self, DecodeError> {
        match value {
            Json::Bool(flag) => Ok(flag),
            other => Err(DecodeError::mismatch(&other, at, "bool")),
        }
    }
}

impl Field for i64 {
    fn read(value: Json, at: &str) -> Result<Self, DecodeError> {
        match &value {
            Json::Number(text) => text.parse().map_err(|_| DecodeError::mismatch(&value, at, "int")),
            other => Err(DecodeError::mismatch(other, at, "int")),
        }
    }
}

impl<T: Field> Field for Option<T> {
    fn read(value: Json, at: &str) -> Result<Self, DecodeError> {
        if value == Json::Null { Ok(None) } else { T::read(value, at).map(Some) }
    }
}

impl Field for Vec<String> {
    fn read(value: Json, at: &str) -> Result<Self, DecodeError> {
        match value {
            // A null among strings is the empty string, as in Go.
            Json::Array(items) => items
                .into_iter()
                .map(|item| Ok(Option::<String>::read(item, at)?.unwrap_or_default()))
                .collect(),
            other => Err(DecodeError::mismatch(&other, at, "[]string")),
        }
    }
}

impl Field for BTreeMap<String, String> {
    fn read(value: Json, at: &str) -> Result<Self, DecodeError> {
        match value {
            Json::Object(members) => members
                .into_iter()
                .map(|(key, value)| Ok((key, Option::<String>::read(value, at)?.unwrap_or_default())))
                .collect(),
            other => Err(DecodeError::mismatch(&other, at, "map[string]string")),
        }
    }
}

/// Reads Go's text or nanoseconds; any other kind of value is ignored.
impl Field for GoDuration {
    fn read(value: Json, _at: &str) -> Result<Self, DecodeError> {
        match value {
            Json::String(text) => text.parse().map_err(DecodeError::new),
            Json::Number(text) => Ok(Self::from_nanos_text(&text)),
            _ => Ok(Self::default()),
        }
    }
}
