//! Every field of every method, filled with what nobody honest sends.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, ReflectMessage, Value};
use service_kit::{on_both_databases, testing::TestDatabase};

use crate::{
    rows::{For, ROWS, Row},
    shop::{Who, outcome},
    stage::{Bundle, ORDER, Stage},
    values::{Malice, bad, named, places, put},
};

impl Stage {
    /// Who may call it about anybody's things, so that the request itself is
    /// what is judged.
    pub(crate) fn whoever_may(&self, row: &Row) -> Who {
        match row.who {
            For::Everybody => Who::Nobody,
            For::Service => Who::Service(ORDER),
            For::Account | For::Admin => self.admin(),
            _ => self.staff(),
        }
    }
}

/// A good request of a row.
pub(crate) fn good(row: &Row, of: &Bundle) -> DynamicMessage {
    static POOL: LazyLock<DescriptorPool> =
        LazyLock::new(|| DescriptorPool::decode(mesh_proto::FILE_DESCRIPTOR_SET).unwrap());
    let (service, method) = row.path.split_once('/').unwrap();
    let service = POOL.get_service_by_name(service).unwrap();
    let method = service.methods().find(|found| found.name() == method).unwrap();
    let text = (row.body)(of).to_string();
    DynamicMessage::deserialize(method.input(), &mut serde_json::Deserializer::from_str(&text)).unwrap()
}

/// Has the mask of a change of an account name what is tried, so that it is
/// read.
fn unmask(request: &mut DynamicMessage, place: &[FieldDescriptor]) {
    let tried = place.last().unwrap().name();
    if let Some(mask) = request.get_field_by_name_mut("update_mask")
        && request_is_of_user(place)
        && ["email", "password", "roles"].contains(&tried)
    {
        let mask = mask.as_message_mut().unwrap();
        mask.set_field_by_name("paths", Value::List(vec![Value::String(tried.into())]));
    }
}

/// Where the answer has the field that was tried, its text is as it came.
fn stays(answer: &serde_json::Value, place: &[FieldDescriptor], text: &str) {
    let name = place.last().unwrap().name();
    if let Some(told) = answer.get(name).and_then(|told| told.as_str()).filter(|_| name != "etag") {
        assert_eq!(told, text, "{}", named(place));
    }
}

fn request_is_of_user(place: &[FieldDescriptor]) -> bool {
    place.first().unwrap().parent_message().full_name() == "shop.user.v1.UpdateUserRequest"
}

/// What is answered otherwise than by `INVALID_FIELD`: the
/// method, the field, what is bad about its value, and every answer that there
/// may be, of which OK means that it stayed text.
const ANSWERS: &str = include_str!("answers.txt");

fn answers() -> BTreeMap<String, BTreeSet<String>> {
    let lines = ANSWERS.lines().filter(|line| !line.is_empty());
    let split = lines.map(|line| line.split_once(": ").unwrap());
    split.map(|(case, may)| (case.to_owned(), may.split(" or ").map(str::to_owned).collect())).collect()
}

/// Bob's things are what is tried; whatever becomes of them, Ada's stay.
async fn what_nobody_honest_sends_is_refused_or_stays_text(database: TestDatabase) {
    let stage = Stage::open(&database).await;
    let before = stage.all_of(&stage.ada).await;
    let mut answered: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut tried = 0;
    for row in ROWS {
        let who = stage.whoever_may(row);
        for place in places(&good(row, &stage.bob).descriptor()) {
            for (malice, value) in bad(place.last().unwrap()) {
                let mut hostile = good(row, &stage.bob);
                put(&mut hostile, &place, value.clone());
                unmask(&mut hostile, &place);
                let answer = stage.shop.send(&who, row.path, hostile.encode_to_vec().into()).await;
                if let (Ok(answer), Some(text)) = (&answer, value.as_str().filter(|_| malice == Malice::Sql))
                {
                    stays(answer, &place, text);
                }
                let (code, reason) = outcome(&answer);
                let case = format!("{} {} {malice:?}", row.path, named(&place));
                let told = format!("{code:?} {reason}").trim_end().to_owned();
                answered.entry(case).or_default().insert(told);
                tried += 1;
            }
        }
    }
    assert!(tried > 1_500, "{tried} requests were tried");
    assert_eq!(stage.all_of(&stage.ada).await, before, "what is another's has changed");
    let refused = BTreeSet::from(["InvalidArgument INVALID_FIELD".to_owned()]);
    answered.retain(|_, told| *told != refused);
    let expected = answers();
    let line = |(case, told): (&String, &BTreeSet<String>)| {
        format!("{case}: {}", told.iter().cloned().collect::<Vec<_>>().join(" or "))
    };
    let other: Vec<_> = answered
        .iter()
        .filter(|(case, told)| !expected.get(*case).is_some_and(|may| told.is_subset(may)))
        .map(line)
        .collect();
    assert!(other.is_empty(), "answered otherwise than expected:\n{}", other.join("\n"));
    let gone: Vec<_> = expected.keys().filter(|case| !answered.contains_key(*case)).collect();
    assert!(gone.is_empty(), "all refused as INVALID_FIELD now: {gone:?}");
}

on_both_databases!(what_nobody_honest_sends_is_refused_or_stays_text);
