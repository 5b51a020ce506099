//! A question to a DNS server by UDP, as RFC 1035 and RFC 2782 have it.

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
    let mut answer = [0; 4096];
    let length = socket.recv(&mut answer).unwrap();
    let answer = &answer[..length];
    assert_eq!(answer[..2], query[..2], "the answer to another question");
    assert_eq!(answer[3] & 0x0f, 0, "{name}: an error, {answer:?}");

    let number = |at: usize| u16::from_be_bytes([answer[at], answer[at + 1]]);
    // The question stands before the answers again, as it was asked.
    let mut at = query.len();
    let mut ports = Vec::new();
    for _ in 0..number(6) {
        at = after_name(answer, at);
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

/// Where the name that begins at `at` has ended: by the root, or by a reference
/// to another place.
fn after_name(answer: &[u8], mut at: usize) -> usize {
    loop {
        match answer[at] {
            0 => return at + 1,
            reference if reference >= 0xc0 => return at + 2,
            label => at += 1 + usize::from(label),
        }
    }
}
