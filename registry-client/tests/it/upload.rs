//! No byte of a request is lost, doubled or reordered, however it is cut up.

use bytes::{BufMut, Bytes};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use proptest::{collection::vec, prelude::*};
use registry_client::{
    Channel, ChannelConfig,
    resolve::fixed::FixedResolver,
    testing::{FaultyServer, FaultyService, Reply},
};
use tokio_stream::StreamExt;
use tonic::{Code, Status, body::Body};
use tower::ServiceExt;

use crate::{channel::methods, server::within};

/// One upload and what stands in its way.
#[derive(Clone, Debug)]
struct Case {
    /// The sizes of the request's frames, in bytes.
    frames: Vec<usize>,
    /// True if each frame is a while in coming.
    paced: bool,
    stream_window: u32,
    largest_frame: u32,
    /// How many attempts fail before one is answered.
    failures: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    // Together below the 256 KiB up to which a request is sent again.
    let frames = vec(prop_oneof![0_usize..10, 100_usize..25_000], 1..10);
    let (window, frame) = (700_u32..200_000, 16_384_u32..100_000);
    (frames, any::<bool>(), window, frame, 0_u64..3).prop_map(
        |(frames, paced, stream_window, largest_frame, failures)| Case {
            frames,
            paced,
            stream_window,
            largest_frame,
            failures,
        },
    )
}

/// A gRPC message whose bytes encode their positions.
fn message(size: usize) -> Bytes {
    let mut message = vec![0];
    message.put_u32(u32::try_from(size).unwrap());
    message.extend((0..size).map(|place| (place % 251) as u8));
    message.into()
}

/// What comes back of an upload.
async fn echoed(case: Case) -> (Bytes, Bytes) {
    let failures = case.failures;
    let script = move |n| if n < failures { Reply::fail(Code::Unavailable) } else { Reply::Echo };
    let service = FaultyService::scripted(script);
    service.set_http2(|http2| {
        http2.stream_window = case.stream_window;
        http2.frame = case.largest_frame;
    });
    let server = FaultyServer::start(service).await.unwrap();
    let resolver = FixedResolver::with([server.instance("one")]);
    let channel = Channel::new("peer".parse().unwrap(), &resolver, methods(), ChannelConfig::default());

    let sent = message(case.frames.iter().sum());
    let mut left = sent.clone();
    let mut frames: Vec<Bytes> =
        case.frames.iter().map(|size| left.split_to((*size).min(left.len()))).collect();
    frames.push(left);
    let paced = case.paced;
    let frames = tokio_stream::iter(frames).then(move |data| async move {
        if paced {
            tokio::task::yield_now().await;
        }
        Ok::<_, Status>(Frame::data(data))
    });
    let request = http::Request::post("/test.v1.Peer/Get")
        .header("content-type", "application/grpc")
        .body(Body::new(StreamBody::new(frames)))
        .unwrap();
    let answer = channel.oneshot(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(answer.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(server.counts().requests, failures + 1);
    (sent, answer.to_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_upload_arrives_whole_and_in_order(case in cases()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (sent, received) = runtime.block_on(within(echoed(case)));
        let differing = sent.iter().zip(&received).position(|(one, other)| one != other);
        prop_assert_eq!((received.len(), differing), (sent.len(), None));
    }
}
