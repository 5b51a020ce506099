//! The handlers of the gRPC service.

use mesh_proto::shop::order::v1::{
    self as wire, CancelOrderRequest, CompleteOrderRequest, CreateOrderRequest, GetOrderRequest,
    ListOrdersRequest, ListOrdersResponse, PayOrderRequest, ShipOrderRequest, WatchOrderRequest,
    order_service_server::OrderService,
};
use prost::Message;
use registry_client::server::Drain;
use service_kit::{
    auth::Caller,
    follow::{UpdateStream, follow},
    value::Etag,
};
use tonic::{Request, Response, Status};

use crate::{
    Error,
    checkout::{execute, prepare},
    commands::OrderCommand,
    domain::{Order, OrderId},
    request::{self, ListRequest},
    saga::Sagas,
    store::Store,
};

/// Orders as a gRPC service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Orders {
    sagas: Sagas,
    drain: Drain,
}

impl Orders {
    /// The orders of `sagas`. Watches end when `drain` begins.
    #[must_use]
    pub fn new(sagas: Sagas, drain: Drain) -> Self {
        Self { sagas, drain }
    }

    fn store(&self) -> &Store {
        self.sagas.store()
    }

    async fn create(&self, caller: &Caller, request: &CreateOrderRequest) -> Result<wire::Order, Error> {
        let request = request::order_request(caller, request)?;
        caller.may_act_for(&request.customer)?;
        let prepared = prepare(&self.sagas, &request).await?;
        let sagas = self.sagas.clone();
        self.sagas.run(async move { execute(&sagas, &request, prepared).await }).await?
    }

    /// Reads an order that the caller may see.
    async fn get(&self, caller: &Caller, id: OrderId) -> Result<Order, Error> {
        let order = self.store().get(id).await?;
        may_see(caller, &order)?;
        Ok(order)
    }

    async fn run(&self, caller: &Caller, id: OrderId, command: OrderCommand) -> Result<Order, Error> {
        let snapshot = self.store().snapshot(id).await?;
        may_see(caller, snapshot.order())?;
        let sagas = self.sagas.clone();
        self.sagas.run(async move { command.execute(&sagas, snapshot).await }).await?
    }

    async fn list(&self, caller: &Caller, request: ListOrdersRequest) -> Result<ListOrdersResponse, Error> {
        let ListRequest { customer, page } = request.try_into()?;
        caller.may_act_for(&customer)?;
        let fetch = async |after, limit| {
            let orders = self.store().list(&customer, after, limit).await?;
            Ok::<_, Error>(orders.into_iter().map(wire::Order::from).collect())
        };
        let (orders, next_page_token) =
            page.fill(fetch, |order| &order.order_id, Message::encoded_len).await?;
        Ok(ListOrdersResponse { orders, next_page_token })
    }

    /// Reads the order; `None` when its version is the one that was sent last.
    async fn get_newer(
        &self,
        caller: &Caller,
        id: OrderId,
        sent: Option<Etag>,
    ) -> Result<Option<(Etag, wire::Order)>, Error> {
        let order = self.get(caller, id).await?;
        let etag = order.etag();
        Ok((sent != Some(etag)).then(|| (etag, order.into())))
    }
}

/// Checks that the caller may see an order. The error does not reveal that the order
/// exists.
fn may_see(caller: &Caller, order: &Order) -> Result<(), Error> {
    caller.may_act_for(&order.facts().customer).map_err(|_| Error::NotFound(order.id()))
}

#[tonic::async_trait]
impl OrderService for Orders {
    type WatchOrderStream = UpdateStream<wire::Order>;

    async fn create_order(
        &self,
        request: Request<CreateOrderRequest>,
    ) -> Result<Response<wire::Order>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.create(&caller, request.get_ref()).await?))
    }

    async fn get_order(&self, request: Request<GetOrderRequest>) -> Result<Response<wire::Order>, Status> {
        let (caller, id) = (caller(&request)?, order_id(&request.get_ref().order_id)?);
        Ok(Response::new(self.get(&caller, id).await?.into()))
    }

    async fn list_orders(
        &self,
        request: Request<ListOrdersRequest>,
    ) -> Result<Response<ListOrdersResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.list(&caller, request.into_inner()).await?))
    }

    async fn pay_order(&self, request: Request<PayOrderRequest>) -> Result<Response<wire::Order>, Status> {
        let caller = caller(&request)?;
        let (id, method) = request::payment(request.get_ref()).map_err(Error::from)?;
        Ok(Response::new(self.run(&caller, id, OrderCommand::Pay(method)).await?.into()))
    }

    async fn ship_order(&self, request: Request<ShipOrderRequest>) -> Result<Response<wire::Order>, Status> {
        let (caller, id) = (caller(&request)?, order_id(&request.get_ref().order_id)?);
        Ok(Response::new(self.run(&caller, id, OrderCommand::Ship).await?.into()))
    }

    async fn complete_order(
        &self,
        request: Request<CompleteOrderRequest>,
    ) -> Result<Response<wire::Order>, Status> {
        let (caller, id) = (caller(&request)?, order_id(&request.get_ref().order_id)?);
        Ok(Response::new(self.run(&caller, id, OrderCommand::Complete).await?.into()))
    }

    async fn cancel_order(
        &self,
        request: Request<CancelOrderRequest>,
    ) -> Result<Response<wire::Order>, Status> {
        let (caller, id) = (caller(&request)?, order_id(&request.get_ref().order_id)?);
        Ok(Response::new(self.run(&caller, id, OrderCommand::Cancel).await?.into()))
    }

    async fn watch_order(
        &self,
        request: Request<WatchOrderRequest>,
    ) -> Result<Response<Self::WatchOrderStream>, Status> {
        let (caller, id) = (caller(&request)?, order_id(&request.get_ref().order_id)?);
        // Before the first read, so that no change between the two is missed.
        let subscription = self.store().database().changes().subscribe(&id.to_string());
        let (orders, drain) = (self.clone(), self.drain.clone());
        let draining = async move { drain.draining().await };
        let read = move |sent| {
            let (orders, caller) = (orders.clone(), caller.clone());
            async move { orders.get_newer(&caller, id, sent).await.map_err(Status::from) }
        };
        Ok(Response::new(follow(subscription, crate::NAME, draining, read)))
    }
}

fn caller<T>(request: &Request<T>) -> Result<Caller, Error> {
    Ok(Caller::of(request)?.clone())
}

fn order_id(text: &str) -> Result<OrderId, Error> {
    Ok(request::order_id(text)?)
}
