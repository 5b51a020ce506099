//! grpc-go, by its own interop client and server.

use std::{ffi::OsString, net::SocketAddr, path::Path};

use super::{Peer, SERVES};
use crate::cases::Group;

const NO_COMPRESSION: &str = "grpc-go's interop programs have no gzip";

pub(super) const PEER: Peer = Peer {
    serves: SERVES,
    calls: &[Group::Official],
    server: Some(|tools, port| server_command(tools, "grpc-go-server", port)),
    client: Some(|tools, case, server| client_command(tools, "grpc-go-client", case, server)),
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

/// Our program around grpc-go's service and cases, with compression and a
/// health service.
pub(super) const GZIP: Peer = Peer {
    serves: &[Group::Gzip, Group::Silence],
    calls: &[Group::Gzip],
    server: Some(|tools, port| server_command(tools, "grpc-go-compressed", port)),
    client: Some(|tools, case, server| client_command(tools, "grpc-go-compressed", case, server)),
    server_lacks: &[],
    client_lacks: &[],
};

/// Our program on net/http.
pub(super) const HTTP: Peer = Peer {
    serves: &[Group::Ends],
    calls: &[],
    server: Some(|tools, port| server_command(tools, "go-http-ends", port)),
    client: None,
    server_lacks: &[],
    client_lacks: &[],
};

/// Our program that writes HTTP/2 frame by frame.
pub(super) const FRAMES: Peer = Peer {
    serves: &[Group::Resets],
    server: Some(|tools, port| server_command(tools, "go-http2-resets", port)),
    ..HTTP
};

fn server_command(tools: &Path, program: &str, port: u16) -> Vec<OsString> {
    vec![tools.join(program).into(), format!("--port={port}").into()]
}

fn client_command(tools: &Path, program: &str, case: &str, server: SocketAddr) -> Vec<OsString> {
    let host = format!("--server_host={}", server.ip());
    let port = format!("--server_port={}", server.port());
    let case = format!("--test_case={case}");
    vec![tools.join(program).into(), host.into(), port.into(), case.into()]
}
