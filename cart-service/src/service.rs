//! The rpcs: translate, ask, translate back.

use mesh_proto::shop::cart::v1::{
    self as wire, AddItemRequest, ClearCartRequest, GetCartRequest, RemoveItemRequest, UpdateItemRequest,
    WatchCartRequest, cart_service_server::CartService,
};
use registry_client::server::Drain;
use service_kit::{
    follow::{Following, follow},
    value::{CustomerId, Etag},
};
use tonic::{Request, Response, Status};

use crate::{
    Error,
    catalogue::{Catalogue, Offers, Unavailable},
    domain::{Cart, Line},
    request::{self, Clearance, Item, Removal},
    store::Store,
    view::show,
};

/// Carts as a gRPC service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Carts {
    store: Store,
    catalogue: Catalogue,
    drain: Drain,
}

impl Carts {
    /// Carts that `store` keeps and `catalogue` prices. Watches end when
    /// `drain` begins.
    #[must_use]
    pub fn new(store: Store, catalogue: Catalogue, drain: Drain) -> Self {
        Self { store, catalogue, drain }
    }

    async fn get(&self, customer: &CustomerId) -> Result<wire::Cart, Error> {
        self.show(self.store.get(customer).await?).await
    }

    /// Everything that may fail elsewhere comes before the change: an answer
    /// that is an error, after pieces were added, would have them added twice.
    async fn add(&self, request: AddItemRequest) -> Result<wire::Cart, Error> {
        let Item { customer, sku, quantity, seen } = request.try_into()?;
        let held = self.store.get(&customer).await?;
        held.has_room_for(&sku)?;
        let others = held.lines.iter().map(|line| &line.sku).filter(|held| **held != sku);
        let offers = match self.catalogue.offers(others.chain([&sku])).await {
            Err(Unavailable::Missing(skus)) if skus.iter().any(|missing| missing == sku.as_str()) => {
                return Err(Error::NoSuchProduct(sku));
            }
            asked => asked?,
        };
        let Some(currency) = offers.get(&sku).map(|offer| offer.price.currency()) else {
            return Err(Error::NoSuchProduct(sku));
        };
        let cart =
            self.store.change(&customer, seen, |cart| cart.add(sku.clone(), quantity, currency)).await?;
        self.show_with(cart, offers).await
    }

    async fn update(&self, request: UpdateItemRequest) -> Result<wire::Cart, Error> {
        let Item { customer, sku, quantity, seen } = request.try_into()?;
        let cart = self.store.change(&customer, seen, |cart| cart.set(&sku, quantity)).await?;
        self.show(cart).await
    }

    async fn remove(&self, request: RemoveItemRequest) -> Result<wire::Cart, Error> {
        let Removal { customer, sku, seen } = request.try_into()?;
        let cart = self.store.change(&customer, seen, |cart| Ok(cart.remove(&sku))).await?;
        self.show(cart).await
    }

    async fn clear(&self, request: ClearCartRequest) -> Result<wire::Cart, Error> {
        let Clearance { customer, seen } = request.try_into()?;
        let cart = self.store.change(&customer, seen, |cart| Ok(cart.clear())).await?;
        self.show(cart).await
    }

    /// The cart unless it is still the one that was sent last.
    async fn get_newer(
        &self,
        customer: &CustomerId,
        sent: Option<Etag>,
    ) -> Result<Option<(Etag, wire::Cart)>, Error> {
        let cart = self.store.get(customer).await?;
        let etag = cart.etag;
        if sent == Some(etag) { Ok(None) } else { Ok(Some((etag, self.show(cart).await?))) }
    }

    async fn show(&self, cart: Cart) -> Result<wire::Cart, Error> {
        self.show_with(cart, Offers::new()).await
    }

    /// With offers that are known already, as long as they are enough.
    async fn show_with(&self, cart: Cart, mut offers: Offers) -> Result<wire::Cart, Error> {
        let is_known = |line: &Line| offers.contains_key(&line.sku);
        if !cart.lines.iter().all(is_known) {
            offers = self.catalogue.offers(cart.lines.iter().map(|line| &line.sku)).await?;
        }
        show(cart, &offers)
    }
}

impl From<Unavailable> for Error {
    fn from(why: Unavailable) -> Self {
        match why {
            Unavailable::Missing(skus) => Self::Withdrawn(skus),
            Unavailable::Failed(fault) => Self::Catalogue(fault),
        }
    }
}

#[tonic::async_trait]
impl CartService for Carts {
    type WatchCartStream = Following<wire::Cart>;

    async fn get_cart(&self, request: Request<GetCartRequest>) -> Result<Response<wire::Cart>, Status> {
        let customer = request::customer(&request.get_ref().customer_id).map_err(Error::from)?;
        Ok(Response::new(self.get(&customer).await?))
    }

    async fn add_item(&self, request: Request<AddItemRequest>) -> Result<Response<wire::Cart>, Status> {
        Ok(Response::new(self.add(request.into_inner()).await?))
    }

    async fn update_item(&self, request: Request<UpdateItemRequest>) -> Result<Response<wire::Cart>, Status> {
        Ok(Response::new(self.update(request.into_inner()).await?))
    }

    async fn remove_item(&self, request: Request<RemoveItemRequest>) -> Result<Response<wire::Cart>, Status> {
        Ok(Response::new(self.remove(request.into_inner()).await?))
    }

    async fn clear_cart(&self, request: Request<ClearCartRequest>) -> Result<Response<wire::Cart>, Status> {
        Ok(Response::new(self.clear(request.into_inner()).await?))
    }

    async fn watch_cart(
        &self,
        request: Request<WatchCartRequest>,
    ) -> Result<Response<Self::WatchCartStream>, Status> {
        let customer = request::customer(&request.get_ref().customer_id).map_err(Error::from)?;
        // Before the first look, so that no change falls between the two.
        let subscription = self.store.database().changes().subscribe(customer.as_str());
        let (carts, drain) = (self.clone(), self.drain.clone());
        let draining = async move { drain.draining().await };
        let read = move |sent| {
            let (carts, customer) = (carts.clone(), customer.clone());
            async move { carts.get_newer(&customer, sent).await.map_err(Status::from) }
        };
        Ok(Response::new(follow(subscription, crate::NAME, draining, read)))
    }
}
