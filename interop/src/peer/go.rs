//! grpc-go, by its own interop client and server.

use std::{ffi::OsString, net::SocketAddr, path::Path};

use super::Peer;

const NO_COMPRESSION: &str = "grpc-go's interop programs have no gzip";

pub(super) const PEER: Peer = Peer {
    server: Some(server),
    client: Some(client),
    server_lacks: &[
        ("client_compressed_unary", NO_COMPRESSION),
        ("server_compressed_unary", NO_COMPRESSION),
        ("client_compressed_streaming", NO_COMPRESSION),
        ("server_compressed_streaming", NO_COMPRESSION),
    ],
    client_lacks: &[
        ("client_compressed_unary", NO_COMPRESSION),
        ("server_compressed_unary", NO_COMPRESSION),
        ("client_compressed_streaming", NO_COMPRESSION),
        ("server_compressed_streaming", NO_COMPRESSION),
    ],
};

fn server(tools: &Path, port: u16) -> Vec<OsString> {
    vec![tools.join("grpc-go-server").into(), format!("--port={port}").into()]
}

fn client(tools: &Path, case: &str, server: SocketAddr) -> Vec<OsString> {
    let host = format!("--server_host={}", server.ip());
    let port = format!("--server_port={}", server.port());
    let case = format!("--test_case={case}");
    vec![tools.join("grpc-go-client").into(), host.into(), port.into(), case.into()]
}
