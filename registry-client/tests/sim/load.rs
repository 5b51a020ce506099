//! Calls at a fixed rate, and how each of them ended.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::uri::PathAndQuery;
use prost_types::{
    FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, MethodOptions, ServiceDescriptorProto,
    method_options::IdempotencyLevel,
};
use registry_client::{Channel, policy::Methods, telemetry::Explain};
use tokio::task::JoinSet;
use tonic::{Code, Request, Status, client::Grpc};
use tonic_prost::ProstCodec;

use crate::trace::Trace;

/// Marked `IDEMPOTENT`.
const GET: &str = "/sim.v1.Echo/Get";
/// Not safe to send twice.
const ADD: &str = "/sim.v1.Echo/Add";
/// The header that identifies calls on the server.
pub(crate) const CALL: &str = "x-call";

/// Which calls are made.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    /// One call each; every fourth is not idempotent.
    pub(crate) every: Duration,
    pub(crate) deadline: Duration,
    /// When the last one begins.
    pub(crate) until: Duration,
}

/// A call that has ended.
pub(crate) struct Finished {
    pub(crate) n: u64,
    pub(crate) idempotent: bool,
    pub(crate) began: Duration,
    pub(crate) ended: Duration,
    pub(crate) result: Result<(), Status>,
    /// The hosts that it was sent to, in order.
    pub(crate) hosts: Vec<String>,
}

pub(crate) fn methods() -> Methods {
    let get = MethodDescriptorProto {
        name: Some("Get".into()),
        options: Some(MethodOptions {
            idempotency_level: Some(IdempotencyLevel::Idempotent.into()),
            ..Default::default()
        }),
        ..Default::default()
    };
    let service =
        ServiceDescriptorProto { name: Some("Echo".into()), method: vec![get], ..Default::default() };
    let file =
        FileDescriptorProto { package: Some("sim.v1".into()), service: vec![service], ..Default::default() };
    let mut methods = Methods::default();
    methods.describe(&prost::Message::encode_to_vec(&FileDescriptorSet { file: vec![file] })).unwrap();
    methods
}

/// Makes the calls and waits for the last of them.
pub(crate) async fn run(channel: Channel, load: Load, trace: Trace, calls: Arc<Mutex<Vec<Finished>>>) {
    // Everything is connected before the first.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut open = JoinSet::new();
    let mut turn = tokio::time::interval(load.every);
    for n in 0.. {
        turn.tick().await;
        if now() >= load.until {
            break;
        }
        let (channel, trace, calls) = (channel.clone(), trace.clone(), calls.clone());
        open.spawn(async move {
            let finished = call(channel, n, load.deadline).await;
            trace.note(finished.ended, &finished);
            calls.lock().unwrap().push(finished);
        });
    }
    while let Some(ended) = open.join_next().await {
        ended.unwrap();
    }
}

async fn call(channel: Channel, n: u64, deadline: Duration) -> Finished {
    let (began, explain) = (now(), Explain::default());
    let idempotent = n % 4 != 3;
    let mut request = Request::new(n.to_string());
    request.set_timeout(deadline);
    request.metadata_mut().insert(CALL, n.into());
    request.extensions_mut().insert(explain.clone());
    let path = PathAndQuery::from_static(if idempotent { GET } else { ADD });
    let result = async {
        let mut grpc = Grpc::new(channel);
        grpc.ready().await?;
        let answer: String = grpc.unary(request, path, ProstCodec::default()).await?.into_inner();
        if answer == n.to_string() { Ok(()) } else { Err(Status::data_loss(answer)) }
    };
    let result = result.await;
    let hosts = explain.attempts().iter().map(|attempt| attempt.address.host().to_owned()).collect();
    Finished { n, idempotent, began, ended: now(), result, hosts }
}

fn now() -> Duration {
    turmoil::sim_elapsed().unwrap()
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let code = self.result.as_ref().err().map_or(Code::Ok, Status::code);
        let kind = if self.idempotent { "get" } else { "add" };
        let took = (self.ended - self.began).as_millis();
        write!(f, "{kind} {} {code:?} after {took} ms by {}", self.n, self.hosts.join(", "))
    }
}
