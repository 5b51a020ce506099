//! A real service behind the guard, that answers every method of the protocol
//! with who has called it.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use registry_client::{Channel, Mesh};
use service_kit::{
    auth::{Auth, Caller, Outgoing},
    database::Migrations,
    service::{Service, ServiceBuilder, ServiceContext},
    testing::{Callers, Replica, TestDatabase, mesh_to},
};
use tonic::{
    Code, Request, Status,
    body::Body,
    client::Grpc,
    codegen::{Service as TowerService, http},
    metadata::{Ascii, MetadataValue},
    server::NamedService,
};
use tonic_prost::ProstCodec;

pub(crate) const NAME: &str = "guarded-service";

macro_rules! echoes {
    ($($name:ident $service:literal)+) => {
        $(
            #[derive(Clone)]
            struct $name;

            impl NamedService for $name {
                const NAME: &'static str = $service;
            }

            impl TowerService<http::Request<Body>> for $name {
                type Response = http::Response<Body>;
                type Error = Infallible;
                type Future = Ready<Result<http::Response<Body>, Infallible>>;

                fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                    Poll::Ready(Ok(()))
                }

                fn call(&mut self, request: http::Request<Body>) -> Self::Future {
                    ready(Ok(passed(request)))
                }
            }
        )+

        fn serve_all(builder: ServiceBuilder) -> ServiceBuilder {
            builder$(.serve($name))+
        }
    };
}

echoes! {
    Carts "shop.cart.v1.CartService"
    Sink "shop.events.v1.EventSinkService"
    Log "shop.events.v1.EventLogService"
    Orders "shop.order.v1.OrderService"
    Payments "shop.payment.v1.PaymentService"
    Products "shop.product.v1.ProductService"
    Users "shop.user.v1.UserService"
}

/// The status of a call that passed the guard, which no other error has.
fn passed(request: http::Request<Body>) -> http::Response<Body> {
    let request = Request::from_http(request);
    let caller = Caller::of(&request).map_or_else(|_| "no caller".to_owned(), Caller::key);
    Status::new(Code::DataLoss, caller).into_http()
}

#[derive(Debug, Default)]
pub(crate) struct Guarded;

impl Service for Guarded {
    const NAME: &'static str = NAME;
    const VERSION: &'static str = "0";
    const MIGRATIONS: Migrations = Migrations { sqlite: &[], postgres: &[] };

    async fn build(&self, _: &ServiceContext, builder: ServiceBuilder) -> anyhow::Result<ServiceBuilder> {
        Ok(serve_all(builder))
    }
}

/// The service, and those who may call it.
pub(crate) struct Behind {
    pub(crate) callers: Callers,
    pub(crate) channel: Channel,
    _replica: Replica,
    _database: TestDatabase,
}

impl Behind {
    /// Has the keys of tokens already.
    pub(crate) async fn spawn() -> Self {
        let callers = Callers::new();
        let auth = callers.auth(NAME);
        Self::with(callers, auth, mesh_to([])).await
    }

    /// Asks user-service, which `mesh` knows, for them.
    pub(crate) async fn over(mesh: Mesh) -> Self {
        let callers = Callers::new();
        let auth = callers.auth_over_mesh(NAME);
        Self::with(callers, auth, mesh).await
    }

    async fn with(callers: Callers, auth: Auth, mesh: Mesh) -> Self {
        let database = TestDatabase::sqlite();
        let replica = Replica::with_auth::<Guarded>(mesh, &database, auth).await;
        let channel = mesh_to([replica.address]).channel(NAME);
        Self { callers, channel, _replica: replica, _database: database }
    }

    /// Calls `path` with these values of `authorization`.
    pub(crate) async fn with_headers(
        &self,
        path: &'static str,
        headers: &[MetadataValue<Ascii>],
    ) -> Result<String, Status> {
        let mut request = Request::new(());
        for header in headers {
            request.metadata_mut().append("authorization", header.clone());
        }
        call(Auth::off().client(self.channel.clone()), path, request).await
    }

    /// Calls `path` with a token.
    pub(crate) async fn with_token(&self, path: &'static str, token: &str) -> Result<String, Status> {
        self.with_headers(path, &[format!("Bearer {token}").parse().unwrap()]).await
    }
}

/// The caller, or the status of a rejected call.
pub(crate) async fn call(
    through: Outgoing,
    path: &'static str,
    request: Request<()>,
) -> Result<String, Status> {
    let mut client = Grpc::new(through);
    client.ready().await?;
    let path = http::uri::PathAndQuery::from_static(path);
    let answer = client.unary(request, path, ProstCodec::<(), ()>::default()).await;
    let status = answer.map(drop).expect_err("every call ends with a status");
    if status.code() == Code::DataLoss { Ok(status.message().to_owned()) } else { Err(status) }
}
