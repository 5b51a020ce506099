//! The rpcs: translate, ask, translate back.

use mesh_proto::shop::order::v1::{
    self as wire, CancelOrderRequest, CreateOrderRequest, GetOrderRequest, ListOrdersRequest,
    ListOrdersResponse, WatchOrderRequest, order_service_server::OrderService,
};
use prost::Message;
use registry_client::server::Drain;
use service_kit::{
    follow::{Following, follow},
    value::Etag,
};
use tonic::{Request, Response, Status};

use crate::{
    Error,
    carts::Carts,
    checkout::check_out,
    domain::{Order, OrderId},
    request::{self, Listing},
    store::Store,
};

/// Orders as a gRPC service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Orders {
    store: Store,
    carts: Carts,
    drain: Drain,
}

impl Orders {
    /// Orders that `store` keeps, made of `carts`. Watches end when `drain`
    /// begins.
    #[must_use]
    pub fn new(store: Store, carts: Carts, drain: Drain) -> Self {
        Self { store, carts, drain }
    }

    async fn create(&self, request: CreateOrderRequest) -> Result<Order, Error> {
        check_out(&self.store, &self.carts, &request.try_into()?).await
    }

    async fn get(&self, request: GetOrderRequest) -> Result<Order, Error> {
        self.store.get(request::order_id(&request.order_id)?).await
    }

    async fn cancel(&self, request: CancelOrderRequest) -> Result<Order, Error> {
        let id = request::order_id(&request.order_id)?;
        self.store.change(id, |order, now| order.cancel(now)).await
    }

    async fn list(&self, request: ListOrdersRequest) -> Result<ListOrdersResponse, Error> {
        let Listing { customer, page } = request.try_into()?;
        let fetch = async |after, most| {
            let orders = self.store.list(&customer, after, most).await?;
            Ok::<_, Error>(orders.into_iter().map(wire::Order::from).collect())
        };
        let (orders, next_page_token) =
            page.fill(fetch, |order| &order.order_id, Message::encoded_len).await?;
        Ok(ListOrdersResponse { orders, next_page_token })
    }

    /// The order unless it is still the one that was sent last.
    async fn get_newer(&self, id: OrderId, sent: Option<Etag>) -> Result<Option<(Etag, wire::Order)>, Error> {
        let order = self.store.get(id).await?;
        let etag = order.etag();
        Ok((sent != Some(etag)).then(|| (etag, order.into())))
    }
}

#[tonic::async_trait]
impl OrderService for Orders {
    type WatchOrderStream = Following<wire::Order>;

    async fn create_order(
        &self,
        request: Request<CreateOrderRequest>,
    ) -> Result<Response<wire::Order>, Status> {
        Ok(Response::new(self.create(request.into_inner()).await?.into()))
    }

    async fn get_order(&self, request: Request<GetOrderRequest>) -> Result<Response<wire::Order>, Status> {
        Ok(Response::new(self.get(request.into_inner()).await?.into()))
    }

    async fn list_orders(
        &self,
        request: Request<ListOrdersRequest>,
    ) -> Result<Response<ListOrdersResponse>, Status> {
        Ok(Response::new(self.list(request.into_inner()).await?))
    }

    async fn cancel_order(
        &self,
        request: Request<CancelOrderRequest>,
    ) -> Result<Response<wire::Order>, Status> {
        Ok(Response::new(self.cancel(request.into_inner()).await?.into()))
    }

    async fn watch_order(
        &self,
        request: Request<WatchOrderRequest>,
    ) -> Result<Response<Self::WatchOrderStream>, Status> {
        let id = request::order_id(&request.get_ref().order_id).map_err(Error::from)?;
        // Before the first look, so that no change falls between the two.
        let subscription = self.store.database().changes().subscribe(&id.to_string());
        let (orders, drain) = (self.clone(), self.drain.clone());
        let draining = async move { drain.draining().await };
        let read = move |sent| {
            let orders = orders.clone();
            async move { orders.get_newer(id, sent).await.map_err(Status::from) }
        };
        Ok(Response::new(follow(subscription, crate::NAME, draining, read)))
    }

    async fn pay_order(&self, _: Request<wire::PayOrderRequest>) -> Result<Response<wire::Order>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn ship_order(&self, _: Request<wire::ShipOrderRequest>) -> Result<Response<wire::Order>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn complete_order(
        &self,
        _: Request<wire::CompleteOrderRequest>,
    ) -> Result<Response<wire::Order>, Status> {
        Err(Status::unimplemented("not yet"))
    }
}
