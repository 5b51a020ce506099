//! The server of a fake.

use service_kit::testing::{Replica, mesh_to};

pub(crate) async fn serve_fake<S>(service: S) -> Replica
where
    S: tonic::codegen::Service<
            http::Request<tonic::body::Body>,
            Response = http::Response<tonic::body::Body>,
            Error = std::convert::Infallible,
        > + tonic::server::NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    Replica::start(|listener, shutdown| async move {
        let server = mesh_to([]).serve("fake").add_service(service);
        Ok(server.run(listener, shutdown).await?)
    })
    .await
}
