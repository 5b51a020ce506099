//! JSON values with their paths, so that errors name the field.

use std::{collections::BTreeMap, fmt};

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};

use crate::instance::ParseError;

/// A value and the path that leads to it, such as `methodConfig[2].timeout`.
pub(super) struct Field {
    path: String,
    value: Value,
}

/// An object whose settings are taken one by one; the rest is unknown.
pub(super) struct Object {
    path: String,
    left: BTreeMap<String, Value>,
    /// Every name that was taken.
    known: Vec<&'static str>,
}

impl Field {
    /// Parses a text.
    pub(super) fn parse(text: &str) -> Result<Self, ParseError> {
        let Strict(value) =
            serde_json::from_str(text).map_err(|why| ParseError(format!("this is no JSON: {why}")))?;
        Ok(Self { path: String::new(), value })
    }

    /// An error with the path, the value and what is expected.
    pub(super) fn wrong(&self, expected: impl fmt::Display) -> ParseError {
        let mut shown = self.value.to_string();
        if let Some((end, _)) = shown.char_indices().nth(60) {
            shown.truncate(end);
            shown.push('…');
        }
        self.refused(format_args!("{shown} {expected}"))
    }

    /// An error with the path and a reason.
    pub(super) fn refused(&self, why: impl fmt::Display) -> ParseError {
        if self.path.is_empty() {
            ParseError(format!("service config: {why}"))
        } else {
            ParseError(format!("{}: {why}", self.path))
        }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn value(&self) -> &Value {
        &self.value
    }

    pub(super) fn object(self) -> Result<Object, ParseError> {
        match self.value {
            Value::Object(entries) => {
                Ok(Object { path: self.path, left: entries.into_iter().collect(), known: Vec::new() })
            }
            _ => Err(self.wrong("is no object; {…} is expected")),
        }
    }

    pub(super) fn list(self) -> Result<Vec<Self>, ParseError> {
        let Value::Array(values) = self.value else {
            return Err(self.wrong("is no list; […] is expected"));
        };
        let field = |(at, value)| Self { path: format!("{}[{at}]", self.path), value };
        Ok(values.into_iter().enumerate().map(field).collect())
    }
}

impl Object {
    /// The setting of that name; `None` when it is absent or null, which is the
    /// same to protobuf.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Field> {
        self.known.push(name);
        let value = self.left.remove(name).filter(|value| !value.is_null())?;
        Some(Field { path: self.path_of(name), value })
    }

    /// An optional setting, read by `read`.
    pub(super) fn read<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Field) -> Result<T, ParseError>,
    ) -> Result<Option<T>, ParseError> {
        self.take(name).map(read).transpose()
    }

    /// A required setting, read by `read`; `expected` describes it.
    pub(super) fn need<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        read: impl FnOnce(Field) -> Result<T, ParseError>,
    ) -> Result<T, ParseError> {
        let missing = || ParseError(format!("{}: is missing; {expected} is expected", self.path_of(name)));
        match self.left.get(name) {
            None | Some(Value::Null) => Err(missing()),
            Some(_) => self.take(name).ok_or_else(|| ParseError(self.path_of(name))).and_then(read),
        }
    }

    /// The one entry of an object that has exactly one, whatever its name.
    pub(super) fn only(mut self) -> Result<(String, Field), ParseError> {
        match (self.left.pop_first(), self.left.is_empty()) {
            (Some((name, value)), true) => {
                let path = self.path_of(&name);
                Ok((name, Field { path, value }))
            }
            _ => Err(ParseError(format!("{}: exactly one entry is expected", self.path))),
        }
    }

    /// Rejects settings that were not taken.
    pub(super) fn end(self) -> Result<(), ParseError> {
        let Some(name) = self.left.keys().next() else { return Ok(()) };
        let known = self.known.join(", ");
        Err(ParseError(format!("{}: there is no such setting; there are {known}", self.path_of(name))))
    }

    pub(super) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}

/// A JSON value without duplicate names in an object: most readers would
/// silently take the last.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = serde_json::Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if entries.contains_key(&name) {
                return Err(de::Error::custom(format_args!("`{name}` stands there twice")));
            }
            let Strict(value) = map.next_value()?;
            entries.insert(name, value);
        }
        Ok(Value::Object(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Object {
        Field::parse(text).unwrap().object().unwrap()
    }

    #[test]
    fn what_is_left_over_is_refused_with_what_is_known() {
        let mut root = object(r#"{"a": {"b": 1, "c": 2}}"#);
        let mut inner = root.take("a").unwrap().object().unwrap();
        assert!(inner.take("b").is_some() && inner.take("d").is_none());
        assert_eq!(inner.end().unwrap_err().0, "a.c: there is no such setting; there are b, d");
        assert!(root.end().is_ok());
    }

    #[test]
    fn a_field_is_named_by_its_path() {
        let mut root = object(r#"{"a": [0, {"b": "x"}]}"#);
        let second = root.take("a").unwrap().list().unwrap().pop().unwrap();
        let b = second.object().unwrap().take("b").unwrap();
        assert_eq!(b.wrong("is not y").0, r#"a[1].b: "x" is not y"#);
        assert_eq!(
            object("{}").need("n", "a number", Ok).err().unwrap().0,
            "n: is missing; a number is expected"
        );
    }

    #[test]
    fn a_name_that_stands_there_twice_is_refused_at_its_place() {
        let said = Field::parse("{\"a\": {\"b\": 1,\n \"b\": 2}}").err().unwrap().0;
        assert!(said.contains("`b` stands there twice") && said.contains("line 2"), "{said}");
    }

    #[test]
    fn null_is_the_same_as_absent() {
        assert!(object(r#"{"a": null}"#).take("a").is_none());
        assert!(object(r#"{"a": null}"#).need("a", "a number", Ok).is_err());
    }

    #[test]
    fn a_long_value_is_shown_by_its_beginning() {
        let long = format!("{{\"a\": \"{}\"}}", "ä".repeat(1_000));
        let said = object(&long).take("a").unwrap().wrong("is long").0;
        assert!(said.len() < 200 && said.ends_with("… is long"), "{said}");
    }

    #[test]
    fn what_is_no_json_or_nested_without_end_is_refused() {
        for bad in ["", "{", "{]", "{} {}", "nonsense", &"[".repeat(100_000)] {
            let said = Field::parse(bad).err().unwrap().0;
            assert!(said.starts_with("this is no JSON"), "{said}");
        }
    }
}
