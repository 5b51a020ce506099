//! grpc-java, by its own interop client and server.

use std::{ffi::OsString, net::SocketAddr, path::Path};

use super::{Peer, SERVES};
use crate::cases::Group;

const PACKAGE: &str = "io.grpc.testing.integration";
const NO_FLAG: &str = "grpc-java's server does not see whether a message is compressed";

pub(super) const PEER: Peer = Peer {
    serves: SERVES,
    calls: &[Group::Official],
    server: Some(server),
    client: Some(client),
    server_lacks: &[
        ("client_compressed_unary", NO_FLAG),
        ("client_compressed_streaming", NO_FLAG),
        ("server_compressed_streaming", "grpc-java's server does not compress streams"),
    ],
    client_lacks: &[],
};

/// Our program around grpc-java's service, with a health service.
pub(super) const HEALTH: Peer = Peer {
    serves: &[Group::Silence, Group::Deadlines],
    calls: &[],
    server: Some(|tools, port| {
        let mut words = java(tools);
        words.extend([tools.join("StockServer.java").into(), port.to_string().into()]);
        words
    }),
    client: None,
    server_lacks: &[],
    client_lacks: &[],
};

/// `java` with the class path that `cargo xtask interop` wrote, and a flag for
/// a quick start.
fn java(tools: &Path) -> Vec<OsString> {
    let mut arguments = OsString::from("@");
    arguments.push(tools.join("grpc-java.args"));
    vec!["java".into(), arguments, "-XX:TieredStopAtLevel=1".into()]
}

fn server(tools: &Path, port: u16) -> Vec<OsString> {
    let mut words = java(tools);
    words.push(format!("{PACKAGE}.TestServiceServer").into());
    words.extend(["--use_tls=false".into(), format!("--port={port}").into()]);
    words
}

fn client(tools: &Path, case: &str, server: SocketAddr) -> Vec<OsString> {
    let mut words = java(tools);
    words.push(format!("{PACKAGE}.TestServiceClient").into());
    words.extend(["--use_tls=false", "--num_times=1"].map(OsString::from));
    words.push(format!("--server_host={}", server.ip()).into());
    words.push(format!("--server_port={}", server.port()).into());
    words.push(format!("--test_case={case}").into());
    words
}
