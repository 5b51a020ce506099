//! The gRPC handlers.

use mesh_proto::shop::cart::v1::{
    self as wire, AddItemRequest, ClearCartRequest, GetCartRequest, RemoveItemRequest, UpdateItemRequest,
    WatchCartRequest, cart_service_server::CartService,
};
use registry_client::server::Drain;
use service_kit::{
    auth::Caller,
    follow::{UpdateStream, follow},
    value::{CustomerId, Etag, Sku},
};
use tonic::{Request, Response, Status};

use crate::{
    Error,
    catalogue::{Catalogue, Offers, OffersError},
    domain::{Cart, Line},
    request::{self, ClearRequest, ItemRequest, RemoveRequest},
    store::{self, Store},
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
    /// The carts in `store` with the prices of `catalogue`. Watches end when `drain`
    /// begins.
    #[must_use]
    pub fn new(store: Store, catalogue: Catalogue, drain: Drain) -> Self {
        Self { store, catalogue, drain }
    }

    async fn get(&self, customer: &CustomerId) -> Result<wire::Cart, Error> {
        self.show(self.store.get(customer).await?).await
    }

    /// All calls to other services precede the change: after an error the caller
    /// repeats the call, which would add the pieces twice.
    async fn add(&self, request: AddItemRequest) -> Result<wire::Cart, Error> {
        let ItemRequest { customer, sku, quantity, seen } = request.try_into()?;
        let cart = self.store.get(&customer).await?;
        cart.check_room_for(&sku)?;
        let others = cart.lines.iter().map(|line| &line.sku).filter(|other| **other != sku);
        let offers = match self.catalogue.offers(others.chain([&sku])).await {
            Err(OffersError::Missing(skus)) if skus.iter().any(|missing| missing == sku.as_str()) => {
                return Err(Error::ProductNotFound(sku));
            }
            offers => offers?,
        };
        let Some(price) = offers.get(&sku).map(|offer| offer.price) else {
            return Err(Error::ProductNotFound(sku));
        };
        let cart = self.store.change(&customer, seen, |cart| cart.add(sku.clone(), quantity, price)).await?;
        self.show_with(cart, offers).await
    }

    async fn update(&self, request: UpdateItemRequest) -> Result<wire::Cart, Error> {
        let ItemRequest { customer, sku, quantity, seen } = request.try_into()?;
        let cart = self.store.get(&customer).await?;
        let offers = self.offers_for_update(&cart, &sku).await?;
        let price = offers.get(&sku).map(|offer| offer.price);
        let cart = self.store.change(&customer, seen, |cart| cart.set(&sku, quantity, price)).await?;
        self.show_with(cart, offers).await
    }

    /// Fetches the offers to set the line of `sku`, even when other products in the cart
    /// are withdrawn.
    async fn offers_for_update(&self, cart: &Cart, sku: &Sku) -> Result<Offers, Error> {
        // Without its line the update fails in any case.
        if cart.line(sku).is_none() {
            return Ok(Offers::new());
        }
        for skus in [cart.lines.iter().map(|line| &line.sku).collect(), vec![sku]] {
            match self.catalogue.offers(skus).await {
                Err(OffersError::Missing(_)) => {}
                offers => return Ok(offers?),
            }
        }
        Ok(Offers::new())
    }

    async fn remove(&self, request: RemoveItemRequest) -> Result<wire::Cart, Error> {
        let RemoveRequest { customer, sku, seen } = request.try_into()?;
        let cart = self.store.change(&customer, seen, |cart| Ok(cart.remove(&sku))).await?;
        self.show(cart).await
    }

    async fn clear(&self, request: ClearCartRequest) -> Result<wire::Cart, Error> {
        let ClearRequest { customer, seen } = request.try_into()?;
        let cart = self.store.change(&customer, seen, |cart| Ok(cart.clear())).await?;
        self.show(cart).await
    }

    /// The cart, unless it is the same as the one that was sent last.
    async fn get_newer(
        &self,
        customer: &CustomerId,
        sent: Option<WatchVersion>,
    ) -> Result<Option<(WatchVersion, wire::Cart)>, Error> {
        let cart = self.store.get(customer).await?;
        let version = WatchVersion { etag: cart.etag, product_changes: cart.product_changes };
        if sent == Some(version) { Ok(None) } else { Ok(Some((version, self.show(cart).await?))) }
    }

    async fn show(&self, cart: Cart) -> Result<wire::Cart, Error> {
        self.show_with(cart, Offers::new()).await
    }

    /// Uses `offers` unless some are missing.
    async fn show_with(&self, cart: Cart, mut offers: Offers) -> Result<wire::Cart, Error> {
        let is_known = |line: &Line| offers.contains_key(&line.sku);
        if !cart.lines.iter().all(is_known) {
            offers = self.catalogue.offers(cart.lines.iter().map(|line| &line.sku)).await?;
        }
        show(cart, &offers)
    }
}

/// The version of a cart in a watch: it changes with the cart and with its products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WatchVersion {
    etag: Etag,
    product_changes: i64,
}

impl From<OffersError> for Error {
    fn from(why: OffersError) -> Self {
        match why {
            OffersError::Missing(skus) => Self::Withdrawn(skus),
            OffersError::Failed(fault) => Self::Catalogue(fault),
        }
    }
}

/// Returns the owner of the cart of a request, if the caller may act for them. It precedes
/// the parsing of other fields, so that other callers learn nothing about them.
fn authorize<T>(request: &Request<T>, customer: impl FnOnce(&T) -> &String) -> Result<CustomerId, Error> {
    let caller = Caller::of(request)?;
    let customer = request::customer(customer(request.get_ref()))?;
    caller.may_act_for(&customer)?;
    Ok(customer)
}

#[tonic::async_trait]
impl CartService for Carts {
    type WatchCartStream = UpdateStream<wire::Cart>;

    async fn get_cart(&self, request: Request<GetCartRequest>) -> Result<Response<wire::Cart>, Status> {
        let customer = authorize(&request, |get| &get.customer_id)?;
        Ok(Response::new(self.get(&customer).await?))
    }

    async fn add_item(&self, request: Request<AddItemRequest>) -> Result<Response<wire::Cart>, Status> {
        authorize(&request, |add| &add.customer_id)?;
        Ok(Response::new(self.add(request.into_inner()).await?))
    }

    async fn update_item(&self, request: Request<UpdateItemRequest>) -> Result<Response<wire::Cart>, Status> {
        authorize(&request, |update| &update.customer_id)?;
        Ok(Response::new(self.update(request.into_inner()).await?))
    }

    async fn remove_item(&self, request: Request<RemoveItemRequest>) -> Result<Response<wire::Cart>, Status> {
        authorize(&request, |remove| &remove.customer_id)?;
        Ok(Response::new(self.remove(request.into_inner()).await?))
    }

    async fn clear_cart(&self, request: Request<ClearCartRequest>) -> Result<Response<wire::Cart>, Status> {
        authorize(&request, |clear| &clear.customer_id)?;
        Ok(Response::new(self.clear(request.into_inner()).await?))
    }

    async fn watch_cart(
        &self,
        request: Request<WatchCartRequest>,
    ) -> Result<Response<Self::WatchCartStream>, Status> {
        let customer = authorize(&request, |watch| &watch.customer_id)?;
        // Before the first read, so that no change is missed.
        let changes = self.store.database().changes();
        let subscription = [changes.subscribe(customer.as_str()), changes.subscribe(store::PRODUCT_CHANGES)];
        let (carts, drain) = (self.clone(), self.drain.clone());
        let draining = async move { drain.draining().await };
        let read = move |sent| {
            let (carts, customer) = (carts.clone(), customer.clone());
            async move { carts.get_newer(&customer, sent).await.map_err(Status::from) }
        };
        Ok(Response::new(follow(subscription, crate::NAME, draining, read)))
    }
}
