//! The generated code of `grpc.testing`.

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
tonic::include_proto!("grpc.testing");

pub(crate) const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
