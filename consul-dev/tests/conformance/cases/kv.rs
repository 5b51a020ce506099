//! The key-value store.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::{Case, PLAIN, cases};
use crate::agents::Target;
use crate::http::Request;

const KV_QUERY: &[&str] = &[
    "x-consul-default-acl-policy",
    "x-consul-index",
    "x-consul-knownleader",
    "x-consul-lastcontact",
    "x-consul-query-backend",
];

pub(super) fn cases() -> Vec<Case> {
    cases![
        a_value_is_written_and_read,
        an_empty_value_is_null,
        a_value_is_read_raw,
        a_missing_key_is_an_empty_404_with_an_index,
        flags_are_kept,
        an_equal_write_moves_no_index,
        check_and_set_compares_the_index,
        a_bad_number_is_500,
        conflicting_flags_are_400,
        keys_and_values_are_listed,
        keys_are_grouped_by_a_separator,
        a_key_is_deleted,
        a_delete_compares_the_index,
        a_tree_is_deleted,
        a_large_value_is_413,
        a_key_has_no_spaces_at_its_ends.since((1, 22, 0), "it was not checked"),
        a_change_of_the_key_wakes,
        another_key_wakes_neither_a_present_nor_a_missing_one,
        a_missing_key_wakes_when_it_appears.alone(),
        a_prefix_wakes_for_what_is_under_it_only,
        the_index_of_a_missing_key_moves_with_others
            .alone()
            .since((1, 22, 0), "any key woke a query of a missing one"),
        the_delete_of_a_key_wakes_a_prefix,
    ]
}

fn with_type() -> Vec<&'static str> {
    let mut names = KV_QUERY.to_vec();
    names.push("content-type");
    names
}

async fn put(target: &Target, path: &str, value: &str) {
    target.put(format!("/v1/kv/{path}"), value).await.is_status(200).has_text("true");
}

async fn a_value_is_written_and_read(target: Target) {
    let written = target.put("/v1/kv/kv/a", "hello").await;
    written.is_status(200).has_text("true").has_headers(PLAIN).has_header("content-type", "application/json");
    let read = target.get("/v1/kv/kv/a").await;
    read.is_status(200).has_json(&json!([{
        "LockIndex": 0, "Key": "kv/a", "Flags": 0, "Value": "aGVsbG8=", "CreateIndex": "<index>", "ModifyIndex": "<index>",
    }]));
    if target.since(1, 10) {
        read.has_headers(&with_type()).has_header("x-consul-knownleader", "true");
    }
    assert_eq!(read.json()[0]["ModifyIndex"], read.index());
    put(&target, "kv/a", "other").await;
    let again = target.get("/v1/kv/kv/a").await;
    assert!(again.index() > read.index());
    assert_eq!(again.json()[0]["CreateIndex"], read.json()[0]["CreateIndex"]);
    // A key may contain any character of a path.
    put(&target, "kv/a%2Fb%20c%C3%A9", "x").await;
    assert_eq!(target.get("/v1/kv/kv/a/b%20c%C3%A9").await.json()[0]["Key"], "kv/a/b cé");
}

async fn an_empty_value_is_null(target: Target) {
    put(&target, "kv-empty", "").await;
    target.get("/v1/kv/kv-empty").await.has_json(&json!([{"<more>": true, "Value": null}]));
    target.get("/v1/kv/kv-empty?raw").await.is_status(200).has_text("");
}

async fn a_value_is_read_raw(target: Target) {
    put(&target, "kv-raw", "<b>").await;
    let raw = target.get("/v1/kv/kv-raw?raw").await;
    raw.is_status(200).has_text("<b>");
    if target.since(1, 10) {
        let mut names = with_type();
        names.extend(["x-content-type-options", "content-security-policy"]);
        raw.has_headers(&names).has_header("content-type", "text/plain; charset=utf-8");
        raw.has_header("x-content-type-options", "nosniff").has_header("content-security-policy", "sandbox");
    }
}

async fn a_missing_key_is_an_empty_404_with_an_index(target: Target) {
    for path in ["kv-none", "kv-none?raw", "kv-none/?recurse", "kv-none/?keys"] {
        let reply = target.get(format!("/v1/kv/{path}")).await;
        reply.is_status(404).has_text("");
        if target.since(1, 10) {
            reply.has_headers(KV_QUERY);
        }
        assert!(reply.index() >= 1);
    }
}

async fn flags_are_kept(target: Target) {
    put(&target, "kv-flags?flags=18446744073709551615", "x").await;
    let read = target.get("/v1/kv/kv-flags").await.json();
    assert_eq!(read[0]["Flags"], 18_446_744_073_709_551_615_u64);
}

async fn an_equal_write_moves_no_index(target: Target) {
    put(&target, "kv-equal?flags=1", "x").await;
    let before = target.get("/v1/kv/kv-equal").await;
    put(&target, "kv-equal?flags=1", "x").await;
    assert_eq!(target.get("/v1/kv/kv-equal").await.index(), before.index());
    put(&target, "kv-equal?flags=2", "x").await;
    assert!(target.get("/v1/kv/kv-equal").await.index() > before.index());
}

async fn check_and_set_compares_the_index(target: Target) {
    let set = async |index: u64, value: &str| {
        let reply = target.put(format!("/v1/kv/kv-cas?cas={index}"), value).await;
        reply.is_status(200);
        reply.json().as_bool().unwrap()
    };
    assert!(!set(7, "x").await, "there is none yet");
    assert!(set(0, "first").await, "0 creates");
    assert!(!set(0, "second").await, "and only creates");
    let index = target.get("/v1/kv/kv-cas").await.index();
    assert!(!set(index + 1, "second").await);
    assert!(set(index, "second").await);
    assert!(!set(index, "third").await);
    target.get("/v1/kv/kv-cas?raw").await.has_text("second");
}

async fn a_bad_number_is_500(target: Target) {
    for (query, text) in [
        ("cas=abc", r#"strconv.ParseUint: parsing "abc": invalid syntax"#),
        ("cas=", r#"strconv.ParseUint: parsing "": invalid syntax"#),
        ("cas=-1", r#"strconv.ParseUint: parsing "-1": invalid syntax"#),
        ("flags=x", r#"strconv.ParseUint: parsing "x": invalid syntax"#),
        (
            "flags=18446744073709551616",
            r#"strconv.ParseUint: parsing "18446744073709551616": value out of range"#,
        ),
    ] {
        target.put(format!("/v1/kv/kv-number?{query}"), "x").await.is_error(500, text);
    }
    let text = r#"strconv.ParseUint: parsing "x": invalid syntax"#;
    target.delete("/v1/kv/kv-number?cas=x").await.is_error(500, text);
}

async fn conflicting_flags_are_400(target: Target) {
    let reply = target.put("/v1/kv/kv-conflict?cas=1&acquire=a%20b", "x").await;
    reply.is_status(400).has_text("Conflicting flags: acquire=a+b&cas=1\n");
    let reply = target.delete("/v1/kv/kv-conflict?recurse&cas=1").await;
    reply.is_status(400).has_text("Conflicting flags: cas=1&recurse=\n");
}

async fn keys_and_values_are_listed(target: Target) {
    for key in ["kv-list/b", "kv-list/a", "kv-list/c/d", "kv-list-not"] {
        put(&target, key, key).await;
    }
    let keys = target.get("/v1/kv/kv-list/?keys").await;
    keys.is_status(200).has_json(&json!(["kv-list/a", "kv-list/b", "kv-list/c/d"]));
    let all = target.get("/v1/kv/kv-list/?recurse").await;
    let body = all.json();
    let names: Vec<&str> =
        body.as_array().unwrap().iter().map(|entry| entry["Key"].as_str().unwrap()).collect();
    assert_eq!(names, ["kv-list/a", "kv-list/b", "kv-list/c/d"]);
    let newest = body.as_array().unwrap().iter().map(|entry| entry["ModifyIndex"].as_u64().unwrap()).max();
    assert_eq!(Some(all.index()), newest, "the index of a prefix is that of its newest key");
    assert_eq!(keys.index(), all.index());
}

async fn keys_are_grouped_by_a_separator(target: Target) {
    for key in ["kv-group/a/1", "kv-group/a/2", "kv-group/b", "kv-group/c/1"] {
        put(&target, key, "x").await;
    }
    let expected = json!(["kv-group/a/", "kv-group/b", "kv-group/c/"]);
    target.get("/v1/kv/kv-group/?keys&separator=/").await.has_json(&expected);
    target.get("/v1/kv/kv-group/?keys&seperator=/").await.has_json(&expected);
    target.get("/v1/kv/kv-group?keys&separator=/").await.has_json(&json!(["kv-group/"]));
}

async fn a_key_is_deleted(target: Target) {
    put(&target, "kv-delete", "x").await;
    let before = target.get("/v1/kv/kv-delete").await;
    target.delete("/v1/kv/kv-delete").await.is_status(200).has_text("true");
    let gone = target.get("/v1/kv/kv-delete").await;
    gone.is_status(404);
    assert!(gone.index() > before.index());
    target.delete("/v1/kv/kv-delete").await.is_status(200).has_text("true");
    target.delete("/v1/kv/").await.is_status(400).has_text("Missing key name");
}

async fn a_delete_compares_the_index(target: Target) {
    put(&target, "kv-delete-cas", "x").await;
    let index = target.get("/v1/kv/kv-delete-cas").await.index();
    target.delete(format!("/v1/kv/kv-delete-cas?cas={}", index + 1)).await.is_status(200).has_text("false");
    target.delete(format!("/v1/kv/kv-delete-cas?cas={index}")).await.is_status(200).has_text("true");
    target.get("/v1/kv/kv-delete-cas").await.is_status(404);
    target.delete("/v1/kv/kv-delete-cas?cas=5").await.is_status(200).has_text("true");
}

async fn a_tree_is_deleted(target: Target) {
    for key in ["kv-tree/a", "kv-tree/b/c", "kv-tree-not"] {
        put(&target, key, "x").await;
    }
    target.delete("/v1/kv/kv-tree/?recurse").await.is_status(200).has_text("true");
    target.get("/v1/kv/kv-tree/?keys").await.is_status(404);
    target.get("/v1/kv/kv-tree-not").await.is_status(200);
}

async fn a_large_value_is_413(target: Target) {
    let most = 512 * 1024;
    target.put("/v1/kv/kv-large", vec![b'x'; most]).await.is_status(200);
    assert_eq!(target.get("/v1/kv/kv-large?raw").await.body.len(), most);
    let reply = target.client().try_send(Request::put("/v1/kv/kv-larger", vec![b'x'; most + 1])).await;
    // The connection is closed while the body is still being sent, so the response may be
    // lost.
    if let Some(reply) = reply {
        reply.is_status(413);
        if target.since(1, 10) {
            reply.has_text("Request body(524289 bytes) too large, max size: 524288 bytes. See https://developer.hashicorp.com/docs/agent/config/config-files#kv_max_value_size.");
        }
    }
    target.get("/v1/kv/kv-larger").await.is_status(404);
}

async fn a_key_has_no_spaces_at_its_ends(target: Target) {
    let text = "invalid key name, leading/trailing spaces are not allowed";
    for key in ["%20kv-space", "kv-space%20"] {
        target.put(format!("/v1/kv/{key}"), "x").await.is_error(500, text);
        target.get(format!("/v1/kv/{key}")).await.is_error(500, text);
    }
}

/// Makes a blocking read with `index`, and `change` a moment later; returns the response and
/// whether it came early.
async fn read_during_change(
    target: &Target,
    path: &str,
    index: u64,
    change: impl Future<Output = ()>,
) -> (crate::http::Response, bool) {
    let separator = if path.contains('?') { '&' } else { '?' };
    let waiting = target.get(format!("/v1/kv/{path}{separator}index={index}&wait=1s"));
    let later = async {
        sleep(Duration::from_millis(200)).await;
        change.await;
    };
    let (reply, ()) = tokio::join!(waiting, later);
    let early = reply.took < Duration::from_millis(900);
    (reply, early)
}

async fn a_change_of_the_key_wakes(target: Target) {
    put(&target, "kv-wake", "1").await;
    let before = target.get("/v1/kv/kv-wake").await.index();
    let (reply, early) = read_during_change(&target, "kv-wake", before, put(&target, "kv-wake", "2")).await;
    assert!(early && reply.index() > before);
    assert_eq!(reply.json()[0]["Value"], "Mg==");
    let delete = async {
        target.delete("/v1/kv/kv-wake").await.is_status(200);
    };
    let (gone, early) = read_during_change(&target, "kv-wake", reply.index(), delete).await;
    assert!(early && gone.index() > reply.index());
    gone.is_status(404).has_text("");
}

async fn another_key_wakes_neither_a_present_nor_a_missing_one(target: Target) {
    put(&target, "kv-mine", "1").await;
    for key in ["kv-mine", "kv-mine-missing"] {
        let before = target.get(format!("/v1/kv/{key}")).await.index();
        // Another case's key may have changed the index of a missing key between the two reads.
        let before = if key == "kv-mine" { before } else { before + 50 };
        let (reply, early) =
            read_during_change(&target, key, before, put(&target, "kv-mine-other", key)).await;
        assert!(!early, "{key}: {:?}", reply.took);
    }
}

async fn a_missing_key_wakes_when_it_appears(target: Target) {
    let before = target.get("/v1/kv/kv-appears").await;
    before.is_status(404);
    let (reply, early) =
        read_during_change(&target, "kv-appears", before.index(), put(&target, "kv-appears", "here")).await;
    assert!(early && reply.index() > before.index(), "{:?}", reply.took);
    reply.is_status(200);
}

async fn a_prefix_wakes_for_what_is_under_it_only(target: Target) {
    put(&target, "kv-prefix/a", "1").await;
    for query in ["kv-prefix/?recurse", "kv-prefix/?keys"] {
        let before = target.get(format!("/v1/kv/{query}")).await.index();
        let (_, early) =
            read_during_change(&target, query, before, put(&target, "kv-prefixless", query)).await;
        assert!(!early, "{query}");
        let (reply, early) =
            read_during_change(&target, query, before, put(&target, "kv-prefix/b", query)).await;
        assert!(early && reply.index() > before, "{query}");
    }
}

async fn the_index_of_a_missing_key_moves_with_others(target: Target) {
    let before = target.get("/v1/kv/kv-absent").await.index();
    put(&target, "kv-absent-other", "x").await;
    let after = target.get("/v1/kv/kv-absent").await.index();
    assert!(after > before);
    assert_eq!(after, target.get("/v1/kv/kv-absent-other").await.index());
    let (reply, early) =
        read_during_change(&target, "kv-absent", after, put(&target, "kv-absent-other", "y")).await;
    assert!(!early);
    assert!(reply.index() > after, "it did not wake, but returns the new index in the end");
}

async fn the_delete_of_a_key_wakes_a_prefix(target: Target) {
    put(&target, "kv-bury/a", "1").await;
    put(&target, "kv-bury/b", "1").await;
    let before = target.get("/v1/kv/kv-bury/?keys").await.index();
    let delete = async {
        target.delete("/v1/kv/kv-bury/a").await.is_status(200);
    };
    let (reply, early) = read_during_change(&target, "kv-bury/?keys", before, delete).await;
    assert!(early && reply.index() > before);
    reply.has_json(&json!(["kv-bury/b"]));
}
