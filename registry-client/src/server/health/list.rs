//! `grpc.health.v1.Health/List`, added to the protocol in 2025, which
//! tonic-health lacks.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll},
};

use http::{Request, Response};
use prost::Message;
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, MessageOptions,
    MethodDescriptorProto,
    field_descriptor_proto::{Label, Type},
};
use tokio::sync::watch;
use tonic::{
    Status,
    body::Body,
    server::{Grpc, NamedService},
};
use tonic_health::pb::{FILE_DESCRIPTOR_SET, HealthCheckResponse};
use tonic_prost::ProstCodec;
use tower_service::Service;

use super::{HealthState, response};

const PATH: &str = "/grpc.health.v1.Health/List";

/// The most services that a response lists, as in grpc-go.
const MAX_SERVICES: usize = 100;

/// `grpc.health.v1.HealthListRequest`.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct HealthListRequest {}

/// `grpc.health.v1.HealthListResponse`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct HealthListResponse {
    /// The statuses by full name; the empty name is the whole server.
    #[prost(btree_map = "string, message", tag = "1")]
    pub(super) statuses: BTreeMap<String, HealthCheckResponse>,
}

/// Serves `List`, and passes the other methods to the generated service.
#[derive(Clone, Debug)]
pub(in crate::server) struct WithList<S> {
    pub(super) inner: S,
    pub(super) state: watch::Receiver<HealthState>,
}

impl<S: NamedService> NamedService for WithList<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for WithList<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path() != PATH {
            return Box::pin(self.inner.call(request));
        }
        let list = List(self.state.clone());
        Box::pin(async move {
            let codec = ProstCodec::<HealthListResponse, HealthListRequest>::default();
            Ok(Grpc::new(codec).unary(list, request).await)
        })
    }
}

/// The method `List`.
struct List(watch::Receiver<HealthState>);

impl Service<tonic::Request<HealthListRequest>> for List {
    type Response = tonic::Response<HealthListResponse>;
    type Error = Status;
    type Future = Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: tonic::Request<HealthListRequest>) -> Self::Future {
        ready(self.0.borrow().list().map(tonic::Response::new))
    }
}

impl HealthState {
    fn list(&self) -> Result<HealthListResponse, Status> {
        let services = self.services.len();
        if services > MAX_SERVICES {
            return Err(Status::resource_exhausted(format!(
                "this server has {services} services, and a list holds {MAX_SERVICES}; check each by its name"
            )));
        }
        let named = |name: &String| Some((name.clone(), response(self.status(name)?)));
        Ok(HealthListResponse { statuses: self.services.keys().filter_map(named).collect() })
    }
}

/// The descriptor set of the service: tonic-health's, with `List` added if it
/// is missing.
pub(in crate::server) static DESCRIPTORS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    // An invalid descriptor set is rejected where all of them are read.
    let Ok(mut set) = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET) else {
        return FILE_DESCRIPTOR_SET.to_vec();
    };
    set.file.iter_mut().for_each(describe);
    set.encode_to_vec()
});

fn describe(file: &mut FileDescriptorProto) {
    let Some(service) = file.service.iter_mut().find(|service| service.name() == "Health") else { return };
    if service.method.iter().any(|method| method.name() == "List") {
        return;
    }
    service.method.push(MethodDescriptorProto {
        name: Some("List".into()),
        input_type: Some(".grpc.health.v1.HealthListRequest".into()),
        output_type: Some(".grpc.health.v1.HealthListResponse".into()),
        ..Default::default()
    });
    let name = |name: &str| Some(name.to_owned());
    let entry = DescriptorProto {
        name: name("StatusesEntry"),
        field: vec![
            field("key", 1, Label::Optional, Type::String, None),
            field("value", 2, Label::Optional, Type::Message, name(".grpc.health.v1.HealthCheckResponse")),
        ],
        options: Some(MessageOptions { map_entry: Some(true), ..Default::default() }),
        ..Default::default()
    };
    let entries = name(".grpc.health.v1.HealthListResponse.StatusesEntry");
    let response = DescriptorProto {
        name: name("HealthListResponse"),
        field: vec![field("statuses", 1, Label::Repeated, Type::Message, entries)],
        nested_type: vec![entry],
        ..Default::default()
    };
    let request = DescriptorProto { name: name("HealthListRequest"), ..Default::default() };
    file.message_type.extend([request, response]);
}

fn field(name: &str, number: i32, label: Label, kind: Type, of: Option<String>) -> FieldDescriptorProto {
    FieldDescriptorProto {
        name: Some(name.into()),
        json_name: Some(name.into()),
        number: Some(number),
        label: Some(label.into()),
        r#type: Some(kind.into()),
        type_name: of,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use tonic_health::pb::health_check_response::ServingStatus;

    use super::{super::ServerHealth, *};

    #[test]
    fn each_service_is_listed_as_it_is() {
        let health = ServerHealth::new();
        health.report("a.A", true);
        let list = || health.state.borrow().list().unwrap().statuses;
        let statuses = |able| BTreeMap::from(["", "a.A"].map(|name| (name.to_owned(), response(able))));
        assert_eq!(list(), statuses(ServingStatus::NotServing));
        health.set_running(true);
        assert_eq!(list(), statuses(ServingStatus::Serving));
        health.report("a.A", false);
        assert_eq!(list(), statuses(ServingStatus::NotServing));
    }

    #[test]
    fn a_list_has_a_hundred_services_and_no_more() {
        let health = ServerHealth::new();
        for nth in 1..100 {
            health.report(&format!("a.A{nth}"), true);
        }
        assert_eq!(health.state.borrow().list().unwrap().statuses.len(), 100);
        health.report("one.More", true);
        let refused = health.state.borrow().list().unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(refused.message().contains("101 services"), "{refused}");
    }
}
