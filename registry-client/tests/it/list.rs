//! `grpc.health.v1.Health/List`.

use std::collections::BTreeMap;

use prost::Message;
use tonic::{Code, transport::Endpoint};
use tonic_health::pb::{HealthCheckResponse, health_check_response::ServingStatus};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::strict::{Raw, Server, Strict, prefixed};

#[derive(Clone, PartialEq, Message)]
struct HealthListResponse {
    #[prost(btree_map = "string, message", tag = "1")]
    statuses: BTreeMap<String, HealthCheckResponse>,
}

#[tokio::test]
async fn every_service_is_listed_with_its_health() {
    let server = Server::start(Strict::default(), |_| {}).await;
    let answer = Raw::to("grpc.health.v1.Health/List", [prefixed(0, b"")]).send(&server).await;
    assert_eq!(answer.status.unwrap().code(), Code::Ok);
    let listed = HealthListResponse::decode(&answer.body[5..]).unwrap().statuses;
    let serving = HealthCheckResponse { status: ServingStatus::Serving.into() };
    assert_eq!(listed, BTreeMap::from(["", "test.v1.Strict"].map(|name| (name.to_owned(), serving))));
}

#[tokio::test]
async fn reflection_describes_it() {
    let server = Server::start(Strict::default(), |_| {}).await;
    let channel = Endpoint::try_from(format!("http://{}", server.address)).unwrap().connect().await.unwrap();
    for symbol in ["grpc.health.v1.Health.List", "grpc.health.v1.HealthListResponse"] {
        let question = MessageRequest::FileContainingSymbol(symbol.to_owned());
        let request = ServerReflectionRequest { message_request: Some(question), ..Default::default() };
        let request = tokio_stream::once(request);
        let answers = ServerReflectionClient::new(channel.clone()).server_reflection_info(request).await;
        let answer = answers.unwrap().into_inner().message().await.unwrap().unwrap().message_response;
        let Some(MessageResponse::FileDescriptorResponse(files)) = answer else { panic!("{answer:?}") };
        let file = prost_types::FileDescriptorProto::decode(&files.file_descriptor_proto[0][..]).unwrap();
        let methods: Vec<_> = file.service[0].method.iter().map(|method| method.name()).collect();
        assert_eq!(methods, ["Check", "Watch", "List"], "{symbol}");
    }
}
