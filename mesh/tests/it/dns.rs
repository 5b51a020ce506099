//! A DNS query by UDP (RFC 1035, RFC 2782).

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

const SRV: u16 = 33;
const INTERNET: u16 = 1;

/// The ports in the SRV records of `name`, as the server at `port` on loopback
/// answers, in their order.
pub(crate) fn srv_ports(port: u16, name: &str) -> Vec<u16> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    // An id, "recursion desired", one question and nothing else.
    let mut query = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.as_bytes());
    }
    query.push(0);
    query.extend([SRV, INTERNET].iter().flat_map(|number| number.to_be_bytes()));
    socket.send(&query).unwrap();
    let mut response = [0; 4096];
    let length = socket.recv(&mut response).unwrap();
    let response = &response[..length];
    assert_eq!(response[..2], query[..2], "the answer to another question");
    assert_eq!(response[3] & 0x0f, 0, "{name}: an error, {response:?}");

    let number = |at: usize| u16::from_be_bytes([response[at], response[at + 1]]);
    // The response repeats the question before the answers.
    let mut at = query.len();
    let mut ports = Vec::new();
    for _ in 0..number(6) {
        at = skip_name(response, at);
        let (kind, length) = (number(at), usize::from(number(at + 8)));
        at += 10;
        // Priority, weight, port, target.
        if kind == SRV {
            ports.push(number(at + 4));
        }
        at += length;
    }
    ports.sort_unstable();
    ports
}

/// The offset behind the name at `at`, which ends with the root label or a
/// pointer.
fn skip_name(response: &[u8], mut at: usize) -> usize {
    loop {
        match response[at] {
            0 => return at + 1,
            reference if reference >= 0xc0 => return at + 2,
            label => at += 1 + usize::from(label),
        }
    }
}
