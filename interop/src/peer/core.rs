//! gRPC core, by our program on its Python package.

use std::{ffi::OsString, path::Path};

use super::{Peer, SERVES};
use crate::cases::Group;

/// The file from which the program builds its messages.
pub(crate) const DESCRIPTORS: &str = "grpc-testing.descriptors";

const NO_FLAG: &str = "gRPC core's Python package does not show whether a message is compressed";

pub(super) const PEER: Peer = Peer {
    serves: SERVES,
    calls: &[Group::Official, Group::Targets],
    server: Some(|tools, port| python(tools, &["serve", &port.to_string()])),
    client: Some(|tools, case, server| {
        python(tools, &["call", case, &server.ip().to_string(), &server.port().to_string()])
    }),
    server_lacks: &[("client_compressed_unary", NO_FLAG), ("client_compressed_streaming", NO_FLAG)],
    client_lacks: &[(
        "client_compressed_streaming",
        "gRPC core's Python package compresses all requests of a stream, or none",
    )],
};

/// The command line of the program, with the packages that `cargo xtask
/// interop` installed.
fn python(tools: &Path, arguments: &[&str]) -> Vec<OsString> {
    let mut packages = OsString::from("PYTHONPATH=");
    packages.push(tools.join("grpc-core"));
    let mut words = vec!["env".into(), packages, "python3".into(), tools.join("grpc-core.py").into()];
    words.extend(arguments.iter().map(OsString::from));
    words.push(tools.join(DESCRIPTORS).into());
    words
}
