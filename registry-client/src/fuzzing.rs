//! What reads bytes that others wrote, for the crate `fuzz`. Each function
//! panics when a promise is broken; none is for users.

use std::time::Duration;

pub use crate::{
    consul::fuzz_health as consul_health, server::fuzz_http2_head as http2_head,
    snapshot::fuzz_file as snapshot,
};
use crate::{
    framing::{Framing, Rules},
    policy::{Methods, Policies, ServiceConfig, timeout},
};

/// The longest message of an error that says what is wrong with an input.
pub(crate) const MAX_MESSAGE_LEN: usize = 2 << 10;

/// gRPC's service config: what is taken can be used, what is not is said in a
/// message that a log can hold.
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

/// Length-prefixed messages: what is found does not depend on how the bytes
/// are cut into frames.
pub fn framing(data: &[u8]) {
    let Some((&[rules, cut], data)) = data.split_first_chunk() else { return };
    let begin = || {
        let (compressed, single) = (rules & 1 != 0, rules & 2 != 0);
        Framing::new(Rules { max_bytes: usize::from(rules), compressed, single })
    };
    let (mut whole, mut pieces) = (begin(), begin());
    let found = whole.pass(data).err();
    let in_pieces = data.chunks(usize::from(cut).max(1)).find_map(|piece| pieces.pass(piece).err());
    assert_eq!(found, in_pieces);
    let end = |framing: &Framing| (framing.messages(), framing.size(), framing.is_between_messages());
    assert_eq!(end(&whole), end(&pieces));
}

/// `grpc-timeout`: what was read can be sent on, and never grows by it.
pub fn grpc_timeout(data: &[u8]) {
    let Some(time) = timeout::parse(data) else { return };
    let sent = timeout::format(time);
    assert!(sent.len() <= 9, "{sent}");
    // At least the least unit, so that a call is never sent without one.
    let again = timeout::parse(sent.as_bytes());
    assert!(again.is_some_and(|again| again <= time.max(Duration::from_nanos(1))), "{time:?} {sent}");
}
