//! Requests and answers in gzip.

use std::{io::Read, time::Instant};

use bytes::Bytes;
use prost::Message;
use registry_client::{Channel, ChannelConfig, policy::Methods, resolve::fixed::FixedResolver};
use tonic::{Code, Request, client::Grpc, codec::CompressionEncoding};
use tonic_health::pb::HealthCheckRequest;
use tonic_prost::ProstCodec;

use crate::{
    faults::gzipped,
    server::within,
    strict::{Answer, LIMIT, Raw, Server, Strict, message, prefixed},
};

const ONE: &str = "test.v1.Strict/One";
const TWO: &str = "test.v1.Strict/Two";
const LAST: &str = "test.v1.Strict/Last";
const EACH: &str = "test.v1.Strict/Each";

fn compressed(bytes: &[u8]) -> Bytes {
    prefixed(1, &gzipped(bytes))
}

fn said(text: &str) -> Vec<u8> {
    text.to_owned().encode_to_vec()
}

/// The messages of a response, each with its flag.
fn messages(answer: &Answer) -> Vec<(u8, String)> {
    let mut body = &answer.body[..];
    let mut all = Vec::new();
    while let Some((&[flag, length @ ..], rest)) = body.split_first_chunk::<5>() {
        let (one, more) = rest.split_at(u32::from_be_bytes(length) as usize);
        let mut text = one.to_vec();
        if flag == 1 {
            text.clear();
            flate2::read::GzDecoder::new(one).read_to_end(&mut text).unwrap();
        }
        all.push((flag, String::decode(&text[..]).unwrap()));
        body = more;
    }
    all
}

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.headers.get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn every_kind_of_method_takes_gzip_and_the_built_in_services_do() {
    // Whether the service was made to take gzip itself makes no difference.
    for gzip in [false, true] {
        let server = Server::start(Strict { gzip, ..Strict::default() }, |_| {}).await;
        for path in [ONE, TWO, LAST, EACH] {
            let request = Raw::to(path, [compressed(&said("hello"))]).header("grpc-encoding", "gzip");
            let answer = request.send(&server).await;
            assert_eq!(answer.status.as_ref().unwrap().code(), Code::Ok, "{path}: {answer:?}");
            assert_eq!(messages(&answer).last().unwrap(), &(0, "hello".to_owned()), "{path}");
            assert_eq!(header(&answer, "grpc-accept-encoding"), Some("gzip,identity"), "{path}");
            assert_eq!(header(&answer, "grpc-encoding"), None, "{path}");
        }
        let check = HealthCheckRequest { service: "test.v1.Strict".into() }.encode_to_vec();
        for (path, bytes) in [
            ("grpc.health.v1.Health/Check", &check[..]),
            ("grpc.health.v1.Health/List", b""),
            // Lists services.
            ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", b"\x3a\0"),
            ("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", b"\x3a\0"),
        ] {
            let request = Raw::to(path, [compressed(bytes)]).header("grpc-encoding", "gzip");
            let answer = request.send(&server).await;
            assert_eq!(answer.status.as_ref().unwrap().code(), Code::Ok, "{path}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn messages_of_a_stream_are_compressed_or_not_each_by_itself() {
    let server = Server::start(Strict::default(), |_| {}).await;
    let body = [
        compressed(&said("one")),
        message("two"),
        prefixed(1, b""),
        compressed(&said(&"x".repeat(LIMIT - 3))),
        message("five"),
    ]
    .concat();
    let expected = ["one", "two", "", &"x".repeat(LIMIT - 3), "five"].map(|text| (0, text.to_owned()));
    for size in [1, 4, 7, 100, body.len()] {
        let pieces = body.chunks(size).map(Bytes::copy_from_slice);
        let answer = Raw::to(EACH, pieces).header("grpc-encoding", "gzip").send(&server).await;
        assert_eq!(messages(&answer), expected, "pieces of {size}: {answer:?}");
    }
}

#[tokio::test]
async fn an_answer_is_compressed_where_the_caller_takes_it_and_it_is_worth_it() {
    let server = Server::start(Strict { limit: Some(1 << 20), ..Strict::default() }, |_| {}).await;
    for (accepted, size, flag) in [
        (Some("identity, deflate, gzip"), 5_000, 1),
        (Some("gzip"), 5_000, 1),
        (Some("gzip"), 200_000, 1),
        (Some("gzip"), 500, 0),
        (Some("identity,deflate"), 5_000, 0),
        (Some("gzippo"), 5_000, 0),
        (None, 5_000, 0),
    ] {
        for path in [ONE, TWO, LAST, EACH] {
            let mut request = Raw::to(path, [message(&format!("size {size}"))]);
            if let Some(accepted) = accepted {
                request = request.header("grpc-accept-encoding", accepted);
            }
            let answer = request.send(&server).await;
            let all = messages(&answer);
            let what = format!("{path} {accepted:?} {size}");
            assert_eq!(all.last().unwrap(), &(flag, "x".repeat(size)), "{what}");
            if path == TWO {
                assert_eq!(all[0], (0, "first".to_owned()), "{what}");
            }
            let takes =
                accepted.is_some_and(|accepted| accepted.split(',').any(|name| name.trim() == "gzip"));
            assert_eq!(header(&answer, "grpc-encoding"), takes.then_some("gzip"), "{what}");
            let spoken = accepted.map(|_| "gzip,identity");
            assert_eq!(header(&answer, "grpc-accept-encoding"), spoken, "{what}");
        }
    }
}

#[tokio::test]
async fn another_encoding_is_unimplemented_and_the_answer_says_which_are() {
    for gzip in [false, true] {
        let server = Server::start(Strict { gzip, ..Strict::default() }, |_| {}).await;
        for path in [ONE, TWO, LAST, EACH, "grpc.health.v1.Health/Check"] {
            let request = Raw::to(path, [compressed(b"")]).header("grpc-encoding", "deflate");
            let answer = request.send(&server).await;
            let status = answer.status.as_ref().unwrap();
            assert_eq!(status.code(), Code::Unimplemented, "{path}");
            assert!(status.message().contains("`deflate`"), "{status}");
            assert_eq!(header(&answer, "grpc-accept-encoding"), Some("gzip,identity"), "{path}");
        }
    }
}

#[tokio::test]
async fn what_becomes_too_large_is_refused_before_it_is() {
    let server = Server::start(Strict::default(), |_| {}).await;
    let small = Server::start(Strict::default(), |config| config.max_decompressed_size = 100).await;
    // 640 MiB of zeros, in less than 1 MiB.
    let bomb = gzipped(&vec![0; 64 << 20]);
    let bombs = prefixed(1, &vec![bomb; 10].concat());
    for path in [ONE, TWO, LAST, EACH] {
        let begun = Instant::now();
        for (server, body, words) in [
            (&server, bombs.clone(), "once it is decompressed, than the limit, 4194304"),
            // Above the service's own limit.
            (&server, compressed(&said(&"x".repeat(LIMIT))), "the limit is: 1000 bytes"),
            (&small, compressed(&said(&"x".repeat(200))), "than the limit, 100"),
            (&small, prefixed(1, &[0; 200]), "a compressed message has 200 bytes, and the limit is 100"),
        ] {
            let answer = Raw::to(path, [body]).header("grpc-encoding", "gzip").send(server).await;
            let status = answer.status.unwrap();
            assert_eq!(status.code(), Code::ResourceExhausted, "{path}: {status}");
            assert!(status.message().contains(words), "{path}: {status}");
        }
        assert!(begun.elapsed().as_secs() < 5, "{path} took {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn without_the_switch_the_service_decides() {
    for (gzip, code, flag) in [(false, Code::Unimplemented, 0), (true, Code::Ok, 1)] {
        let server = Server::start(Strict { gzip, ..Strict::default() }, |config| config.gzip = false).await;
        let request = Raw::to(ONE, [compressed(&said("hello"))]).header("grpc-encoding", "gzip");
        assert_eq!(request.send(&server).await.status.unwrap().code(), code);
        let request = Raw::to(ONE, [message("hello")]).header("grpc-accept-encoding", "gzip");
        let answer = request.send(&server).await;
        assert_eq!(messages(&answer), [(flag, "hello".to_owned())]);
    }
}

#[tokio::test]
async fn a_client_of_tonics_on_a_channel_of_ours_compresses_both_ways() {
    let server = Server::start(Strict { limit: Some(1 << 20), ..Strict::default() }, |_| {}).await;
    let resolver = FixedResolver::new([server.address]);
    let channel =
        Channel::new("test".parse().unwrap(), &resolver, Methods::default(), ChannelConfig::default());
    for said in ["hello", "size 5000"] {
        let mut grpc = Grpc::new(channel.clone())
            .send_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Gzip);
        grpc.ready().await.unwrap();
        let path = http::uri::PathAndQuery::from_static("/test.v1.Strict/One");
        let codec = ProstCodec::<String, String>::default();
        let answer = within(grpc.unary(Request::new(said.to_owned()), path, codec)).await.unwrap();
        assert_eq!(answer.metadata().get("grpc-encoding").unwrap(), "gzip");
        let expected = if said == "hello" { said.to_owned() } else { "x".repeat(5_000) };
        assert_eq!(answer.into_inner(), expected);
    }
}
