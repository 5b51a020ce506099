//! Filter expressions: `Service.Meta.version == "v2" and "http" in Service.Tags`.
//!
//! This is the language of Consul's `filter` parameter without `matches`. An expression is checked against the
//! fields of the records before any is read, so an invalid one is an error even without records.

mod parse;
mod schema;

use serde::Serialize;
use serde_json::Value;

use crate::response::ErrorResponse;
use schema::FieldKind;
pub(crate) use schema::{AGENT_SERVICE, CATALOG_SERVICE, CHECK, INSTANCE, NODE, Schema};

/// An expression that fits its schema; an empty one keeps everything.
#[derive(Debug)]
pub(crate) struct Filter(Option<Expr>);

/// A parsed expression. Its depth is bounded by the parser's, and chains are lists, so recursion over it is safe.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expr {
    Not(Box<Self>),
    And(Vec<Self>),
    Or(Vec<Self>),
    Match {
        selector: Vec<String>,
        operator: Operator,
        value: String,
        /// The selector goes through a key of a map, which may be absent.
        keyed: bool,
    },
}

/// The operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    In,
    NotIn,
    IsEmpty,
    IsNotEmpty,
}

impl Operator {
    fn name(self) -> &'static str {
        match self {
            Self::Equal => "Equal",
            Self::NotEqual => "Not Equal",
            Self::In => "In",
            Self::NotIn => "Not In",
            Self::IsEmpty => "Is Empty",
            Self::IsNotEmpty => "Is Not Empty",
        }
    }
}

impl Filter {
    /// Reads an expression over the fields of `schema`.
    ///
    /// # Errors
    /// When the expression is invalid, with Consul's error text.
    pub(crate) fn parse(text: &str, schema: Schema) -> Result<Self, ErrorResponse> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let mut expr = parse::expression(text)?;
        expr.check(schema).map_err(invalid_filter)?;
        Ok(Self(Some(expr)))
    }

    /// The same for `/v1/agent/checks`, with its shorter error text.
    pub(crate) fn parse_for_agent_checks(text: &str, schema: Schema) -> Result<Self, ErrorResponse> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let mut expr = parse::expression(text)?;
        expr.check(schema).map_err(ErrorResponse::internal)?;
        Ok(Self(Some(expr)))
    }

    /// Returns whether the expression is true for `item`.
    pub(crate) fn matches(&self, item: &impl Serialize) -> bool {
        let Some(expr) = &self.0 else { return true };
        serde_json::to_value(item).is_ok_and(|value| expr.is_true(&value))
    }
}

/// Consul's error response to an invalid filter.
fn invalid_filter(why: String) -> ErrorResponse {
    ErrorResponse::internal(format!("Failed to create boolean expression evaluator: {why}"))
}

impl Expr {
    fn check(&mut self, schema: Schema) -> Result<(), String> {
        match self {
            Self::Not(inner) => inner.check(schema),
            Self::And(operands) | Self::Or(operands) => {
                operands.iter_mut().try_for_each(|operand| operand.check(schema))
            }
            Self::Match { selector, operator, value, keyed } => {
                let (pattern, kind) = field_of(schema, selector)?;
                *keyed = pattern.contains('*');
                check_match(&selector.join("."), kind, *operator, value)
            }
        }
    }

    fn is_true(&self, item: &Value) -> bool {
        match self {
            Self::Not(inner) => !inner.is_true(item),
            Self::And(operands) => operands.iter().all(|operand| operand.is_true(item)),
            Self::Or(operands) => operands.iter().any(|operand| operand.is_true(item)),
            Self::Match { selector, operator, value, keyed } => {
                let test = |field: Option<&Value>| match field {
                    Some(field) => compare(field, *operator, value),
                    // An absent field was left out because it is empty; an absent key equals nothing.
                    None if *keyed => matches!(operator, Operator::NotEqual | Operator::NotIn),
                    None => compare(&Value::Null, *operator, value),
                };
                any_field(item, selector, &test)
            }
        }
    }
}

/// Finds the field that `selector` names; the error names the shortest part that is not a field.
fn field_of(schema: Schema, selector: &[String]) -> Result<(&'static str, FieldKind), String> {
    let mut field = None;
    for length in 1..=selector.len() {
        let part = &selector[..length];
        let fits = |pattern: &str| {
            pattern.split('.').count() == length
                && pattern.split('.').zip(part).all(|(expected, given)| expected == "*" || expected == given)
        };
        field = schema.iter().find(|(pattern, _)| fits(pattern)).copied();
        if field.is_none() {
            return Err(format!("Selector {:?} is not valid", part.join(".")));
        }
    }
    field.ok_or_else(|| "Selector \"\" is not valid".to_owned())
}

fn check_match(selector: &str, kind: FieldKind, operator: Operator, value: &str) -> Result<(), String> {
    use Operator::{Equal, In, IsEmpty, IsNotEmpty, NotEqual, NotIn};
    let allowed = match kind {
        FieldKind::Text => matches!(operator, Equal | NotEqual | In | NotIn),
        FieldKind::Int | FieldKind::Bool => matches!(operator, Equal | NotEqual),
        FieldKind::List | FieldKind::Map => matches!(operator, In | NotIn | IsEmpty | IsNotEmpty),
        FieldKind::Structs => matches!(operator, IsEmpty | IsNotEmpty),
        FieldKind::Struct => false,
    };
    if !allowed {
        return Err(format!("Invalid match operator {:?} for selector {selector:?}", operator.name()));
    }
    let coerced = match kind {
        FieldKind::Int => value.parse::<i64>().map(|_| ()).map_err(|_| "ParseInt"),
        FieldKind::Bool => crate::request::parse_bool(value).map(|_| ()).ok_or("ParseBool"),
        _ => Ok(()),
    };
    coerced.map_err(|function| {
        format!(
            "Failed to coerce value {value:?} for selector {selector:?}: strconv.{function}: parsing {value:?}: invalid syntax"
        )
    })
}

/// Returns whether the field at `selector` passes; in a list of structures one is enough.
fn any_field(item: &Value, selector: &[String], test: &dyn Fn(Option<&Value>) -> bool) -> bool {
    let Some((first, rest)) = selector.split_first() else {
        return test(Some(item));
    };
    match item {
        Value::Array(items) => items.iter().any(|item| any_field(item, selector, test)),
        other => match other.get(first) {
            Some(found) => any_field(found, rest, test),
            None => test(None),
        },
    }
}

fn compare(field: &Value, operator: Operator, value: &str) -> bool {
    let equal = || match field {
        Value::String(text) => text == value,
        Value::Number(number) => value.parse::<i64>().ok() == number.as_i64(),
        Value::Bool(flag) => crate::request::parse_bool(value) == Some(*flag),
        Value::Null => matches!(value, "" | "0" | "false"),
        Value::Array(_) | Value::Object(_) => false,
    };
    let contains = || match field {
        Value::String(text) => text.contains(value),
        Value::Array(items) => items.iter().any(|item| item == value),
        Value::Object(members) => members.contains_key(value),
        _ => false,
    };
    let empty = || match field {
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        other => other.is_null(),
    };
    match operator {
        Operator::Equal => equal(),
        Operator::NotEqual => !equal(),
        Operator::In => contains(),
        Operator::NotIn => !contains(),
        Operator::IsEmpty => empty(),
        Operator::IsNotEmpty => !empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn matches(text: &str) -> bool {
        let item = json!({
            "Node": {"Node": "n", "Meta": {}},
            "Service": {"ID": "web-1", "Tags": ["a", "b"], "Meta": {"version": "v2", "x-y": "1"}, "Port": 80},
            "Checks": [{"Status": "passing"}, {"Status": "critical"}],
        });
        Filter::parse(text, INSTANCE).unwrap().matches(&item)
    }

    #[test]
    fn expressions_are_evaluated() {
        for text in [
            r#"Service.Meta.version == "v2""#,
            r#"Service.Meta["x-y"] == 1 and not Service.ID != web-1"#.replace("web-1", "\"web-1\"").as_str(),
            "a in Service.Tags and Service.Tags contains b",
            "\"c\" not in Service.Tags or Service.Port == 3",
            "(Service.Port == 80)",
            "Checks.Status == critical",
            "Checks is not empty and Node.Meta is empty",
            "Service.Meta.none != x",
            "Service.Address == \"\"",
            "Service.EnableTagOverride == false",
        ] {
            assert!(matches(text), "{text}");
            assert!(!matches(&format!("not ({text})")), "not ({text})");
        }
    }
}
