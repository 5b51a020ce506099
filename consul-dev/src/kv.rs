//! `/v1/kv`: the key-value store.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Serialize;

use crate::Context;
use crate::answer::{self, Answer, Failure, Meta};
use crate::blocking::{Seen, jittered, wait_for};
use crate::health::refuse_foreign;
use crate::request::{ReadOptions, Request};
use crate::store::{Entry, State};

/// One key as it is read.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct EntryShape {
    lock_index: u64,
    key: String,
    flags: u64,
    value: Option<String>,
    create_index: u64,
    modify_index: u64,
}

impl EntryShape {
    fn new(key: &str, entry: &Entry) -> Self {
        Self {
            lock_index: 0,
            key: key.to_owned(),
            flags: entry.flags,
            value: (!entry.value.is_empty()).then(|| STANDARD.encode(&entry.value)),
            create_index: entry.create,
            modify_index: entry.modify,
        }
    }
}

/// Answers any request below `/v1/kv/`.
pub(crate) async fn answer(context: &Context, request: &Request) -> Result<Answer, Failure> {
    let options = ReadOptions::read(&request.query, &context.node.datacenter)?;
    let key = request.rest.as_str();
    if key.starts_with(' ') || key.ends_with(' ') {
        return Err(Failure::internal("invalid key name, leading/trailing spaces are not allowed"));
    }
    let reading = request.method == Method::GET;
    let recurse = request.query.has("recurse") && request.method != Method::PUT;
    let keys = reading && request.query.has("keys");
    if key.is_empty() && !recurse && !keys {
        return Err(Failure::bad_request("Missing key name"));
    }
    request.refuse_enterprise()?;
    match request.method {
        Method::PUT => {
            refuse_conflicting(request, &["cas", "acquire", "release"])?;
            put(context, request, key)
        }
        Method::DELETE => {
            refuse_conflicting(request, &["recurse", "cas"])?;
            delete(context, request, key)
        }
        _ => {
            refuse_foreign(&options)?;
            if keys || recurse {
                list(context, request, key, &options).await
            } else {
                get(context, request, key, &options).await
            }
        }
    }
}

async fn get(
    context: &Context,
    request: &Request,
    key: &str,
    options: &ReadOptions,
) -> Result<Answer, Failure> {
    let look = |state: &State| match state.kv.get(key) {
        Some(entry) => Seen { index: entry.modify, version: entry.modify, missing: false },
        // The index of an absent key moves with every other key, but only the key itself wakes.
        None => Seen { index: state.kv.index(), version: 0, missing: true },
    };
    wait_for(&context.store, options.index, jittered(options.wait), look).await;
    let (index, found) = context.store.read(|state| (look(state).index, state.kv.get(key).cloned()));
    let mut answer = match found {
        None => answer::bare(StatusCode::NOT_FOUND),
        Some(entry) if request.query.has("raw") => raw(entry.value),
        Some(entry) => answer::json(StatusCode::OK, &[EntryShape::new(key, &entry)], request.pretty()),
    };
    answer::set_meta(&mut answer, &meta(index));
    Ok(answer)
}

/// A value as it is, with what keeps a browser from running it.
fn raw(value: Bytes) -> Answer {
    let mut answer = answer::with_type(StatusCode::OK, "text/plain; charset=utf-8", value);
    answer::set(&mut answer, "x-content-type-options", "nosniff");
    answer::set(&mut answer, "content-security-policy", "sandbox");
    answer
}

/// `?recurse` and `?keys`.
async fn list(
    context: &Context,
    request: &Request,
    prefix: &str,
    options: &ReadOptions,
) -> Result<Answer, Failure> {
    let look = |state: &State| {
        let version = state.kv.index_under(prefix);
        Seen { index: if version == 0 { state.kv.index() } else { version }, version, missing: false }
    };
    wait_for(&context.store, options.index, jittered(options.wait), look).await;
    let (index, entries) = context.store.read(|state| {
        let entries = state.kv.under(prefix).map(|(key, entry)| EntryShape::new(key, entry));
        (look(state).index, entries.collect::<Vec<_>>())
    });
    let only_keys = request.query.has("keys");
    let mut answer = if entries.is_empty() && !(only_keys && prefix.is_empty()) {
        answer::bare(StatusCode::NOT_FOUND)
    } else if only_keys {
        let separator = ["separator", "seperator"].map(|name| request.query.get(name)).concat();
        answer::json(StatusCode::OK, &grouped(&entries, prefix, &separator), request.pretty())
    } else {
        answer::json(StatusCode::OK, &entries, request.pretty())
    };
    answer::set_meta(&mut answer, &meta(index));
    Ok(answer)
}

/// The keys, each cut after the first separator behind the prefix; what is equal then stands once.
fn grouped(entries: &[EntryShape], prefix: &str, separator: &str) -> Vec<String> {
    let cut = |entry: &EntryShape| {
        let at = entry.key[prefix.len()..].find(separator).filter(|_| !separator.is_empty());
        at.map_or_else(|| entry.key.clone(), |at| entry.key[..prefix.len() + at + separator.len()].to_owned())
    };
    let mut keys: Vec<String> = entries.iter().map(cut).collect();
    // The keys are in order, so what is equal stands together.
    keys.dedup();
    keys
}

fn put(context: &Context, request: &Request, key: &str) -> Result<Answer, Failure> {
    for lock in ["acquire", "release"] {
        if request.query.has(lock) {
            return Err(Failure::bad_request(format!(
                "this development agent has no sessions; `{lock}` needs a real Consul agent"
            )));
        }
    }
    let flags = number(request, "flags")?.unwrap_or(0);
    let expected = number(request, "cas")?;
    let value = request.body()?;
    let written = context.store.write(|state| {
        if expected.is_some_and(|index| !state.kv_matches(key, index)) {
            return Ok(false);
        }
        state.kv_put(key, value, flags).map(|()| true)
    })?;
    Ok(answer::json(StatusCode::OK, &written, request.pretty()))
}

fn delete(context: &Context, request: &Request, key: &str) -> Result<Answer, Failure> {
    let expected = number(request, "cas")?;
    let deleted = context.store.write(|state| {
        if request.query.has("recurse") {
            state.kv_delete_under(key);
            return true;
        }
        // Deleting what is not there is done, whatever was expected.
        let matches =
            expected.is_none_or(|index| state.kv.get(key).is_none_or(|entry| entry.modify == index));
        if matches {
            state.kv_delete(key);
        }
        matches
    });
    Ok(answer::json(StatusCode::OK, &deleted, request.pretty()))
}

/// A parameter that must be a number if it is there.
fn number(request: &Request, name: &str) -> Result<Option<u64>, Failure> {
    if !request.query.has(name) {
        return Ok(None);
    }
    let text = request.query.get(name);
    let wrong = |why: &str| Failure::internal(format!("strconv.ParseUint: parsing {text:?}: {why}"));
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong("invalid syntax"));
    }
    text.parse().map(Some).map_err(|_| wrong("value out of range"))
}

fn refuse_conflicting(request: &Request, flags: &[&str]) -> Result<(), Failure> {
    if flags.iter().filter(|flag| request.query.has(flag)).count() < 2 {
        return Ok(());
    }
    Err(Failure::bad_request(format!("Conflicting flags: {}\n", request.query.encoded())))
}

fn meta(index: u64) -> Meta {
    Meta { index, known_leader: true, consistency: None, streaming: false }
}
