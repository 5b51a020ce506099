//! `/v1/kv`: the key-value store.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Serialize;

use crate::blocking::{QueryView, wait_for, with_jitter};
use crate::context::Context;
use crate::health::reject_foreign_datacenter;
use crate::request::{ReadOptions, Request};
use crate::response::{self, ErrorResponse, HttpResponse, QueryMeta};
use crate::store::{AgentState, Entry};

/// A key-value pair as JSON.
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

/// Serves any request below `/v1/kv/`.
pub(crate) async fn serve(context: &Context, request: &Request) -> Result<HttpResponse, ErrorResponse> {
    let options = ReadOptions::read(&request.query, &context.node.datacenter)?;
    let key = request.rest.as_str();
    if key.starts_with(' ') || key.ends_with(' ') {
        return Err(ErrorResponse::internal("invalid key name, leading/trailing spaces are not allowed"));
    }
    let is_read = request.method == Method::GET;
    let recurse = request.query.has("recurse") && request.method != Method::PUT;
    let keys = is_read && request.query.has("keys");
    if key.is_empty() && !recurse && !keys {
        return Err(ErrorResponse::bad_request("Missing key name"));
    }
    request.reject_enterprise()?;
    match request.method {
        Method::PUT => {
            reject_conflicting(request, &["cas", "acquire", "release"])?;
            put(context, request, key)
        }
        Method::DELETE => {
            reject_conflicting(request, &["recurse", "cas"])?;
            delete(context, request, key)
        }
        _ => {
            reject_foreign_datacenter(&options)?;
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
) -> Result<HttpResponse, ErrorResponse> {
    let query = |state: &AgentState| match state.kv.get(key) {
        Some(entry) => QueryView { index: entry.modify, version: entry.modify, is_missing: false },
        // The index of an absent key changes with every other key, but only the key itself
        // wakes the query.
        None => QueryView { index: state.kv.index(), version: 0, is_missing: true },
    };
    wait_for(&context.store, options.index, with_jitter(options.wait), query).await;
    let (index, found) = context.store.read(|state| (query(state).index, state.kv.get(key).cloned()));
    let mut response = match found {
        None => response::without_body(StatusCode::NOT_FOUND),
        Some(entry) if request.query.has("raw") => raw(entry.value),
        Some(entry) => response::json(StatusCode::OK, &[EntryShape::new(key, &entry)], request.pretty()),
    };
    response::set_query_meta(&mut response, &meta(index));
    Ok(response)
}

/// The raw value, with headers that keep a browser from running it.
fn raw(value: Bytes) -> HttpResponse {
    let mut response = response::with_type(StatusCode::OK, "text/plain; charset=utf-8", value);
    response::set(&mut response, "x-content-type-options", "nosniff");
    response::set(&mut response, "content-security-policy", "sandbox");
    response
}

/// `?recurse` and `?keys`.
async fn list(
    context: &Context,
    request: &Request,
    prefix: &str,
    options: &ReadOptions,
) -> Result<HttpResponse, ErrorResponse> {
    let query = |state: &AgentState| {
        let version = state.kv.index_under(prefix);
        QueryView { index: if version == 0 { state.kv.index() } else { version }, version, is_missing: false }
    };
    wait_for(&context.store, options.index, with_jitter(options.wait), query).await;
    let (index, entries) = context.store.read(|state| {
        let entries = state.kv.under(prefix).map(|(key, entry)| EntryShape::new(key, entry));
        (query(state).index, entries.collect::<Vec<_>>())
    });
    let only_keys = request.query.has("keys");
    let mut response = if entries.is_empty() && !(only_keys && prefix.is_empty()) {
        response::without_body(StatusCode::NOT_FOUND)
    } else if only_keys {
        let separator = ["separator", "seperator"].map(|name| request.query.get(name)).concat();
        response::json(StatusCode::OK, &grouped(&entries, prefix, &separator), request.pretty())
    } else {
        response::json(StatusCode::OK, &entries, request.pretty())
    };
    response::set_query_meta(&mut response, &meta(index));
    Ok(response)
}

/// The keys, each cut after the first separator behind the prefix, without duplicates.
fn grouped(entries: &[EntryShape], prefix: &str, separator: &str) -> Vec<String> {
    let cut = |entry: &EntryShape| {
        let at = entry.key[prefix.len()..].find(separator).filter(|_| !separator.is_empty());
        at.map_or_else(|| entry.key.clone(), |at| entry.key[..prefix.len() + at + separator.len()].to_owned())
    };
    let mut keys: Vec<String> = entries.iter().map(cut).collect();
    // The keys are sorted, so duplicates are adjacent.
    keys.dedup();
    keys
}

fn put(context: &Context, request: &Request, key: &str) -> Result<HttpResponse, ErrorResponse> {
    for lock in ["acquire", "release"] {
        if request.query.has(lock) {
            return Err(ErrorResponse::bad_request(format!(
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
    Ok(response::json(StatusCode::OK, &written, request.pretty()))
}

fn delete(context: &Context, request: &Request, key: &str) -> Result<HttpResponse, ErrorResponse> {
    let expected = number(request, "cas")?;
    let deleted = context.store.write(|state| {
        if request.query.has("recurse") {
            state.kv_delete_under(key);
            return true;
        }
        // Deleting an absent key succeeds, whatever index was expected.
        let matches =
            expected.is_none_or(|index| state.kv.get(key).is_none_or(|entry| entry.modify == index));
        if matches {
            state.kv_delete(key);
        }
        matches
    });
    Ok(response::json(StatusCode::OK, &deleted, request.pretty()))
}

/// Reads an optional parameter that must be a number.
fn number(request: &Request, name: &str) -> Result<Option<u64>, ErrorResponse> {
    if !request.query.has(name) {
        return Ok(None);
    }
    let text = request.query.get(name);
    let wrong = |why: &str| ErrorResponse::internal(format!("strconv.ParseUint: parsing {text:?}: {why}"));
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong("invalid syntax"));
    }
    text.parse().map(Some).map_err(|_| wrong("value out of range"))
}

fn reject_conflicting(request: &Request, flags: &[&str]) -> Result<(), ErrorResponse> {
    if flags.iter().filter(|flag| request.query.has(flag)).count() < 2 {
        return Ok(());
    }
    Err(ErrorResponse::bad_request(format!("Conflicting flags: {}\n", request.query.encoded())))
}

fn meta(index: u64) -> QueryMeta {
    QueryMeta { index, known_leader: true, consistency: None, streaming: false }
}
