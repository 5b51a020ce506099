//! What grpcurl sees: both versions of the reflection service.

/// The versions have the same messages under different paths.
macro_rules! reflection {
    ($version:ident) => {
        mod $version {
            use std::net::SocketAddr;

            use tonic::transport::Endpoint;
            use tonic_reflection::pb::$version::{
                ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
                server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
            };

            use crate::server::Running;

            async fn query(address: SocketAddr, question: MessageRequest) -> MessageResponse {
                let channel =
                    Endpoint::try_from(format!("http://{address}")).unwrap().connect().await.unwrap();
                let question =
                    ServerReflectionRequest { message_request: Some(question), ..Default::default() };
                let request = tokio_stream::once(question);
                let answers = ServerReflectionClient::new(channel).server_reflection_info(request).await;
                let answer = answers.unwrap().into_inner().message().await.unwrap();
                answer.unwrap().message_response.unwrap()
            }

            #[tokio::test]
            async fn lists_what_is_served() {
                let server = Running::start(|_| {}).await;
                let answer = query(server.address, MessageRequest::ListServices(String::new())).await;
                let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
                let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
                let expected = [
                    "test.v1.Scripted",
                    "grpc.health.v1.Health",
                    "grpc.reflection.v1.ServerReflection",
                    "grpc.reflection.v1alpha.ServerReflection",
                ];
                assert_eq!(names, expected);
            }

            #[tokio::test]
            async fn describes_health_reflection_and_error_details() {
                let server = Running::start(|_| {}).await;
                for symbol in [
                    "google.rpc.ErrorInfo",
                    "google.rpc.BadRequest",
                    "grpc.health.v1.Health",
                    "grpc.reflection.v1.ServerReflection",
                    "grpc.reflection.v1alpha.ServerReflection",
                ] {
                    let question = MessageRequest::FileContainingSymbol(symbol.to_owned());
                    let answer = query(server.address, question).await;
                    assert!(
                        matches!(answer, MessageResponse::FileDescriptorResponse(_)),
                        "{symbol}: {answer:?}"
                    );
                }
            }
        }
    };
}

reflection!(v1);
reflection!(v1alpha);
