//! Hostile values for every field of a request.

use std::iter::once;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};

/// A field of a request, by the fields that lead to it.
pub(crate) type FieldPath = Vec<FieldDescriptor>;

/// The limit on the depth of nested messages.
const MAX_DEPTH: usize = 4;

/// The kinds of hostile values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malice {
    /// Text that is SQL if it is pasted into a statement.
    Sql,
    /// NUL and other control characters.
    Control,
    /// A MiB of text.
    Huge,
    /// No text.
    Empty,
    /// Text that names nothing: no UUID, or an unknown one.
    Nobody,
    /// A number at the end of its range.
    Extreme,
    /// An undefined enum value.
    Unknown,
    /// An invalid amount.
    Money,
    /// Ten thousand of them.
    Many,
}

/// The paths of all fields of `message` that hold a value of their own.
pub(crate) fn field_paths(message: &MessageDescriptor) -> Vec<FieldPath> {
    below(message, &[])
}

fn below(message: &MessageDescriptor, above: &[FieldDescriptor]) -> Vec<FieldPath> {
    let mut found = Vec::new();
    for field in message.fields() {
        let path: FieldPath = above.iter().cloned().chain(once(field.clone())).collect();
        match field.kind() {
            Kind::Message(inner) if !is_money(&inner) => {
                if field.is_list() {
                    found.push(path.clone());
                }
                if path.len() < MAX_DEPTH {
                    found.extend(below(&inner, &path));
                }
            }
            _ => found.push(path),
        }
    }
    found
}

/// The field's name as the protocol spells it, with those that lead to it.
pub(crate) fn path_name(path: &[FieldDescriptor]) -> String {
    path.iter().map(FieldDescriptor::name).collect::<Vec<_>>().join(".")
}

fn is_money(message: &MessageDescriptor) -> bool {
    message.full_name() == "google.type.Money"
}

/// The bad values of a field.
pub(crate) fn bad_values(field: &FieldDescriptor) -> Vec<(Malice, Value)> {
    let one = |(malice, value): (Malice, Value)| {
        let is_one = !field.is_list() || malice == Malice::Many;
        (malice, if is_one { value } else { Value::List(vec![value]) })
    };
    let mut values: Vec<_> = singles(field).into_iter().map(one).collect();
    if field.is_list() {
        let item = match field.kind() {
            Kind::Message(inner) => Value::Message(DynamicMessage::new(inner)),
            Kind::Enum(_) => Value::EnumNumber(1),
            _ => Value::String("tea".into()),
        };
        values.push((Malice::Many, Value::List(vec![item; 10_000])));
    }
    values
}

fn singles(field: &FieldDescriptor) -> Vec<(Malice, Value)> {
    let texts = |malice: Malice, texts: &[&str]| -> Vec<_> {
        texts.iter().map(|text| (malice, Value::String((*text).into()))).collect()
    };
    match field.kind() {
        Kind::String => [
            texts(Malice::Sql, &SQL),
            texts(Malice::Control, &["a\0b", "\0", "a\u{7}b", "a\r\nb", "\u{85}", "\u{1b}[2J"]),
            texts(Malice::Huge, &[&"a".repeat(1 << 20)]),
            texts(Malice::Empty, &[""]),
            texts(Malice::Nobody, &["not-a-uuid", "00000000-0000-0000-0000-000000000000"]),
        ]
        .concat(),
        Kind::Int32 => [i32::MIN, -1, i32::MAX].map(|n| (Malice::Extreme, Value::I32(n))).into(),
        Kind::Int64 => [i64::MIN, -1, i64::MAX].map(|n| (Malice::Extreme, Value::I64(n))).into(),
        Kind::Enum(_) => [-1, 99, i32::MAX].map(|n| (Malice::Unknown, Value::EnumNumber(n))).into(),
        Kind::Message(inner) if is_money(&inner) => {
            MONEY.iter().map(|amount| (Malice::Money, Value::Message(money(&inner, *amount)))).collect()
        }
        Kind::Message(_) => Vec::new(),
        kind => panic!("add bad values of the kind {kind:?}"),
    }
}

const SQL: [&str; 7] = [
    "'; DROP TABLE users; --",
    "' OR '1'='1",
    "\" OR \"\"=\"",
    "x' UNION SELECT password FROM users --",
    "1; DELETE FROM orders",
    "$1",
    "\\'; SELECT pg_sleep(9); --",
];

/// Amounts that the shop rejects.
const MONEY: [(&str, i64, i32); 12] = [
    ("EUR", -1, 0),
    ("EUR", 0, -10_000_000),
    ("EUR", 1, -10_000_000),
    ("EUR", -1, 10_000_000),
    ("EUR", 0, 1_000_000_000),
    ("EUR", 0, i32::MIN),
    ("EUR", 0, 1),
    ("JPY", 0, 10_000_000),
    ("EUR", i64::MAX, 0),
    ("EUR", i64::MIN, i32::MIN),
    ("XXX", 1, 0),
    ("'; DROP TABLE charges; --", 1, 0),
];

fn money(message: &MessageDescriptor, (currency, units, nanos): (&str, i64, i32)) -> DynamicMessage {
    let mut amount = DynamicMessage::new(message.clone());
    amount.set_field_by_name("currency_code", Value::String(currency.into()));
    amount.set_field_by_name("units", Value::I64(units));
    amount.set_field_by_name("nanos", Value::I32(nanos));
    amount
}

/// Sets the field at `path`, and creates the messages on the way.
pub(crate) fn put(message: &mut DynamicMessage, path: &[FieldDescriptor], value: Value) {
    let [field, rest @ ..] = path else { return };
    if rest.is_empty() {
        message.set_field(field, value);
        return;
    }
    let Kind::Message(inner) = field.kind() else { panic!("{field:?} holds no fields") };
    let missing = || Value::Message(DynamicMessage::new(inner.clone()));
    let current = message.get_field_mut(field);
    match current {
        Value::Message(nested) => put(nested, rest, value),
        Value::List(all) => {
            if all.is_empty() {
                all.push(missing());
            }
            let Some(Value::Message(nested)) = all.first_mut() else { panic!("{field:?} is no message") };
            put(nested, rest, value);
        }
        other => panic!("{field:?} holds {other:?}"),
    }
}
