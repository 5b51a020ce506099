//! The generated code of `chaos.v1`.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::doc_markdown,
    clippy::too_many_lines,
    clippy::use_self,
    reason = "generated"
)]

tonic::include_proto!("chaos.v1");

pub(crate) const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
