//! The health service of a server: `grpc.health.v1`.
//!
//! It uses tonic-health's protocol types with a state of its own, because the
//! stock service fails a `Watch` of an unknown name where the protocol requires
//! `SERVICE_UNKNOWN`, and keeps `Watch` streams open for ever, which would
//! delay every drain.

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use futures_util::{Stream, stream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{self, HealthServer},
};

use super::{Drain, correct_status::MAX_ECHOED};

mod list;

pub(super) use list::DESCRIPTORS;
use list::WithList;

/// The health of a server's services; from
/// [`Server::health`](super::Server::health). Cheap to clone.
///
/// The whole server (the empty name, and its registered one) serves only while
/// it runs and all its services do, because callers choose an instance as a
/// whole. Once the server drains, none of them serves, whatever is reported.
#[derive(Clone, Debug)]
pub struct ServerHealth {
    state: Arc<watch::Sender<HealthState>>,
}

#[derive(Debug, Default)]
struct HealthState {
    running: bool,
    /// The registered name, which stands for the whole server.
    registered: String,
    /// The reported states by full name; the empty name is the whole server.
    services: BTreeMap<String, bool>,
}

impl HealthState {
    fn status(&self, service: &str) -> Option<ServingStatus> {
        let service = if service == self.registered { "" } else { service };
        let reported = self.services.get(service)?;
        let server_is_able = if service.is_empty() {
            self.services.values().all(|&is_able| is_able)
        } else {
            self.services.get("").is_some_and(|&is_able| is_able)
        };
        let serves = self.running && *reported && server_is_able;
        Some(if serves { ServingStatus::Serving } else { ServingStatus::NotServing })
    }
}

impl ServerHealth {
    pub(super) fn new() -> Self {
        let services = BTreeMap::from([(String::new(), true)]);
        Self { state: Arc::new(watch::Sender::new(HealthState { services, ..HealthState::default() })) }
    }

    /// Reports whether `service`, a full name such as
    /// `shop.cart.v1.CartService`, can work; the empty name means the whole
    /// server. Every service is able until it is reported otherwise.
    pub fn report(&self, service: &str, is_able: bool) {
        self.state.send_if_modified(|state| {
            let before = state.services.insert(service.to_owned(), is_able);
            before != Some(is_able)
        });
    }

    /// Returns whether the whole server serves.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.state.borrow().status("") == Some(ServingStatus::Serving)
    }

    /// The reported states of the services, without the whole server.
    pub(super) fn services(&self) -> BTreeMap<String, bool> {
        let named = |(name, is_able): (&String, &bool)| (!name.is_empty()).then(|| (name.clone(), *is_able));
        self.state.borrow().services.iter().filter_map(named).collect()
    }

    /// Sets the registered name, under which the health of the whole server is
    /// served too.
    pub(super) fn set_registered(&self, name: &str) {
        self.state.send_modify(|state| name.clone_into(&mut state.registered));
    }

    /// Sets whether the server runs.
    pub(super) fn set_running(&self, running: bool) {
        self.state.send_if_modified(|state| std::mem::replace(&mut state.running, running) != running);
    }

    pub(super) fn service(&self, drain: Drain) -> WithList<HealthServer<impl health_server::Health>> {
        let state = self.state.subscribe();
        WithList { inner: HealthServer::new(HealthService { state: state.clone(), drain }), state }
    }
}

struct HealthService {
    state: watch::Receiver<HealthState>,
    drain: Drain,
}

#[tonic::async_trait]
impl health_server::Health for HealthService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = &request.get_ref().service;
        match self.state.borrow().status(service) {
            Some(status) => Ok(Response::new(response(status))),
            None => {
                let named: String = service.chars().take(MAX_ECHOED).collect();
                Err(Status::not_found(format!("this server has no service `{named}`")))
            }
        }
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let watch = HealthWatchStream {
            service: request.into_inner().service,
            state: self.state.clone(),
            drain: self.drain.clone(),
            last_sent: None,
        };
        // The `None` after the error ends the stream.
        let answers = stream::unfold(Some(watch), |watch| async {
            let mut watch = watch?;
            match watch.next().await {
                Ok(status) => Some((Ok(response(status)), Some(watch))),
                Err(ended) => Some((Err(ended), None)),
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// One open `Watch` stream.
struct HealthWatchStream {
    service: String,
    state: watch::Receiver<HealthState>,
    drain: Drain,
    last_sent: Option<ServingStatus>,
}

impl HealthWatchStream {
    /// The next status that differs from the last one sent.
    async fn next(&mut self) -> Result<ServingStatus, Status> {
        let ended = || Status::unavailable("the server is shutting down; watch another instance");
        loop {
            let status = self.state.borrow_and_update().status(&self.service);
            let status = status.unwrap_or(ServingStatus::ServiceUnknown);
            if self.last_sent.replace(status) != Some(status) {
                return Ok(status);
            }
            tokio::select! {
                // In this order: a change is sent before the stream ends.
                biased;
                changed = self.state.changed() => changed.map_err(|_| ended())?,
                () = self.drain.draining() => return Err(ended()),
            }
        }
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use health_server::Health as _;

    use super::*;

    const CART: &str = "shop.cart.v1.CartService";

    fn service(health: &ServerHealth, drain: &Drain) -> HealthService {
        HealthService { state: health.state.subscribe(), drain: drain.clone() }
    }

    async fn check(service: &HealthService, name: &str) -> Result<ServingStatus, tonic::Code> {
        let request = Request::new(HealthCheckRequest { service: name.into() });
        service
            .check(request)
            .await
            .map(|response| response.get_ref().status())
            .map_err(|status| status.code())
    }

    #[tokio::test]
    async fn a_server_serves_while_it_runs_and_all_its_services_are_able() {
        let health = ServerHealth::new();
        let service = service(&health, &Drain::new());
        health.report(CART, true);
        assert_eq!(check(&service, "").await, Ok(ServingStatus::NotServing));

        health.set_running(true);
        assert_eq!(check(&service, "").await, Ok(ServingStatus::Serving));
        assert_eq!(check(&service, CART).await, Ok(ServingStatus::Serving));

        health.report(CART, false);
        assert_eq!(check(&service, "").await, Ok(ServingStatus::NotServing));
        assert_eq!(check(&service, CART).await, Ok(ServingStatus::NotServing));

        health.report(CART, true);
        health.report("", false);
        assert_eq!(check(&service, CART).await, Ok(ServingStatus::NotServing));

        health.report("", true);
        health.set_running(false);
        assert_eq!(check(&service, CART).await, Ok(ServingStatus::NotServing));
        assert_eq!(check(&service, "nope").await, Err(tonic::Code::NotFound));
    }

    #[tokio::test]
    async fn the_registered_name_stands_for_the_whole_server() {
        let health = ServerHealth::new();
        let service = service(&health, &Drain::new());
        health.report(CART, true);
        health.set_running(true);
        assert_eq!(check(&service, "cart-service").await, Err(tonic::Code::NotFound));
        health.set_registered("cart-service");
        assert_eq!(check(&service, "cart-service").await, Ok(ServingStatus::Serving));
        health.report(CART, false);
        assert_eq!(check(&service, "cart-service").await, Ok(ServingStatus::NotServing));
        assert_eq!(check(&service, "order-service").await, Err(tonic::Code::NotFound));
    }

    #[tokio::test]
    async fn a_watch_tells_each_change_once_and_ends_when_the_server_drains() {
        let health = ServerHealth::new();
        let drain = Drain::new();
        let service = service(&health, &drain);
        let request = Request::new(HealthCheckRequest::default());
        let mut watch = service.watch(request).await.unwrap().into_inner();
        let mut next =
            async || watch.next().await.map(|last_sent| last_sent.map(|t| t.status()).map_err(|s| s.code()));

        assert_eq!(next().await, Some(Ok(ServingStatus::NotServing)));
        health.set_running(true);
        assert_eq!(next().await, Some(Ok(ServingStatus::Serving)));
        health.report(CART, true);
        health.set_running(false);
        drain.begin();
        assert_eq!(next().await, Some(Ok(ServingStatus::NotServing)));
        assert_eq!(next().await, Some(Err(tonic::Code::Unavailable)));
        assert_eq!(next().await, None);
    }

    #[tokio::test]
    async fn a_watch_of_an_unknown_name_waits_for_it() {
        let health = ServerHealth::new();
        let service = service(&health, &Drain::new());
        health.set_running(true);
        let request = Request::new(HealthCheckRequest { service: CART.into() });
        let mut watch = service.watch(request).await.unwrap().into_inner();

        assert_eq!(watch.next().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
        health.report(CART, true);
        assert_eq!(watch.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
    }
}
