//! The fuzz targets of this crate, for the crate `fuzz`. Each function panics
//! when a property is violated; none is for users.

use std::time::Duration;

pub use crate::{
    consul::fuzz_health as consul_health, server::fuzz_http2_head as http2_head,
    snapshot::fuzz_file as snapshot,
};
use crate::{
    framing::{Framing, MessageRules},
    policy::{Methods, Policies, ServiceConfig, timeout},
};

/// The longest error message about an input, in bytes.
pub(crate) const MAX_MESSAGE_LEN: usize = 2 << 10;

/// Fuzzes gRPC's service config: an accepted one is usable, and an error is
/// short enough for a log.
pub fn service_config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match ServiceConfig::parse(text) {
        Ok(config) => {
            let policies = Policies::new(&Methods::default(), &config);
            policies.expect("what was read can be used");
        }
        Err(error) => assert!(error.to_string().len() <= MAX_MESSAGE_LEN, "{error}"),
    }
}

/// Fuzzes length-prefixed messages: the result does not depend on how the bytes
/// are split into frames.
pub fn framing(data: &[u8]) {
    let Some((&[rules, cut], data)) = data.split_first_chunk() else { return };
    let begin = || {
        let (compressed, single) = (rules & 1 != 0, rules & 2 != 0);
        Framing::new(MessageRules { max_bytes: usize::from(rules), compressed, single })
    };
    let (mut whole, mut pieces) = (begin(), begin());
    let found = whole.pass(data).err();
    let in_pieces = data.chunks(usize::from(cut).max(1)).find_map(|piece| pieces.pass(piece).err());
    assert_eq!(found, in_pieces);
    let end = |framing: &Framing| (framing.messages(), framing.size(), framing.is_between_messages());
    assert_eq!(end(&whole), end(&pieces));
}

/// Fuzzes `grpc-timeout`: a parsed value can be formatted again, and never
/// grows.
pub fn grpc_timeout(data: &[u8]) {
    let Some(time) = timeout::parse(data) else { return };
    let sent = timeout::format(time);
    assert!(sent.len() <= 9, "{sent}");
    // At least the least unit, so that a call is never sent without one.
    let again = timeout::parse(sent.as_bytes());
    assert!(again.is_some_and(|again| again <= time.max(Duration::from_nanos(1))), "{time:?} {sent}");
}
