//! Every field of every method, filled with hostile values.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, ReflectMessage, Value};
use service_kit::{on_both_databases, testing::TestDatabase};

use crate::{
    rows::{AllowedCallers, ROWS, Row},
    shop::{Caller, outcome},
    stage::{Bundle, ORDER, Stage},
    values::{Malice, bad_values, field_paths, path_name, put},
};

impl Stage {
    /// A caller that may call the method for every customer, so that only the
    /// request can be rejected.
    pub(crate) fn authorized_caller(&self, row: &Row) -> Caller {
        match row.allowed {
            AllowedCallers::Everybody => Caller::Nobody,
            AllowedCallers::Service => Caller::Service(ORDER),
            AllowedCallers::Account | AllowedCallers::Admin => self.admin(),
            _ => self.staff(),
        }
    }
}

/// A valid request of a row.
pub(crate) fn good(row: &Row, of: &Bundle) -> DynamicMessage {
    static POOL: LazyLock<DescriptorPool> =
        LazyLock::new(|| DescriptorPool::decode(mesh_proto::FILE_DESCRIPTOR_SET).unwrap());
    let (service, method) = row.path.split_once('/').unwrap();
    let service = POOL.get_service_by_name(service).unwrap();
    let method = service.methods().find(|found| found.name() == method).unwrap();
    let text = (row.body)(of).to_string();
    DynamicMessage::deserialize(method.input(), &mut serde_json::Deserializer::from_str(&text)).unwrap()
}

/// Adds the tried field to the update mask of an account change, so that it is
/// read.
fn set_update_mask(request: &mut DynamicMessage, path: &[FieldDescriptor]) {
    let tried = path.last().unwrap().name();
    if let Some(mask) = request.get_field_by_name_mut("update_mask")
        && request_is_of_user(path)
        && ["email", "password", "roles"].contains(&tried)
    {
        let mask = mask.as_message_mut().unwrap();
        mask.set_field_by_name("paths", Value::List(vec![Value::String(tried.into())]));
    }
}

/// Asserts that the text of the tried field is unchanged, if the response has
/// it.
fn assert_unchanged(response: &serde_json::Value, path: &[FieldDescriptor], text: &str) {
    let name = path.last().unwrap().name();
    if let Some(outcome_text) =
        response.get(name).and_then(|outcome_text| outcome_text.as_str()).filter(|_| name != "etag")
    {
        assert_eq!(outcome_text, text, "{}", path_name(path));
    }
}

fn request_is_of_user(path: &[FieldDescriptor]) -> bool {
    path.first().unwrap().parent_message().full_name() == "shop.user.v1.UpdateUserRequest"
}

/// The cases whose outcome is not `INVALID_FIELD`: the method, the field, the
/// kind of bad value, and every accepted outcome; OK means that the text was
/// stored unchanged.
const EXPECTED_OUTCOMES: &str = include_str!("answers.txt");

fn expected_outcomes() -> BTreeMap<String, BTreeSet<String>> {
    let lines = EXPECTED_OUTCOMES.lines().filter(|line| !line.is_empty());
    let split = lines.map(|line| line.split_once(": ").unwrap());
    split.map(|(case, may)| (case.to_owned(), may.split(" or ").map(str::to_owned).collect())).collect()
}

/// Tries every value on Bob's data; Ada's must not change.
async fn hostile_values_are_refused_or_stay_text(database: TestDatabase) {
    let stage = Stage::open(&database).await;
    let before = stage.all_of(&stage.ada).await;
    let mut outcomes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut tried = 0;
    for row in ROWS {
        let who = stage.authorized_caller(row);
        for path in field_paths(&good(row, &stage.bob).descriptor()) {
            for (malice, value) in bad_values(path.last().unwrap()) {
                let mut hostile = good(row, &stage.bob);
                put(&mut hostile, &path, value.clone());
                set_update_mask(&mut hostile, &path);
                let response = stage.shop.send(&who, row.path, hostile.encode_to_vec().into()).await;
                if let (Ok(response), Some(text)) =
                    (&response, value.as_str().filter(|_| malice == Malice::Sql))
                {
                    assert_unchanged(response, &path, text);
                }
                let (code, reason) = outcome(&response);
                let case = format!("{} {} {malice:?}", row.path, path_name(&path));
                let outcome_text = format!("{code:?} {reason}").trim_end().to_owned();
                outcomes.entry(case).or_default().insert(outcome_text);
                tried += 1;
            }
        }
    }
    assert!(tried > 1_500, "{tried} requests were tried");
    assert_eq!(stage.all_of(&stage.ada).await, before, "another customer's data has changed");
    let refused = BTreeSet::from(["InvalidArgument INVALID_FIELD".to_owned()]);
    outcomes.retain(|_, outcome_text| *outcome_text != refused);
    let expected = expected_outcomes();
    let line = |(case, outcome_text): (&String, &BTreeSet<String>)| {
        format!("{case}: {}", outcome_text.iter().cloned().collect::<Vec<_>>().join(" or "))
    };
    let other: Vec<_> = outcomes
        .iter()
        .filter(|(case, outcome_text)| !expected.get(*case).is_some_and(|may| outcome_text.is_subset(may)))
        .map(line)
        .collect();
    assert!(other.is_empty(), "answered otherwise than expected:\n{}", other.join("\n"));
    let gone: Vec<_> = expected.keys().filter(|case| !outcomes.contains_key(*case)).collect();
    assert!(gone.is_empty(), "all refused as INVALID_FIELD now: {gone:?}");
}

on_both_databases!(hostile_values_are_refused_or_stay_text);
