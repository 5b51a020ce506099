//! The rpcs: translate, ask, translate back.

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
    catalogue::{Catalogue, Offers, Unavailable},
    domain::{Cart, Line},
    request::{self, Clearance, Item, Removal},
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
        let Some(price) = offers.get(&sku).map(|offer| offer.price) else {
            return Err(Error::NoSuchProduct(sku));
        };
        let cart = self.store.change(&customer, seen, |cart| cart.add(sku.clone(), quantity, price)).await?;
        self.show_with(cart, offers).await
    }

    async fn update(&self, request: UpdateItemRequest) -> Result<wire::Cart, Error> {
        let Item { customer, sku, quantity, seen } = request.try_into()?;
        let held = self.store.get(&customer).await?;
        let offers = self.offers_around(&held, &sku).await?;
        let price = offers.get(&sku).map(|offer| offer.price);
        let cart = self.store.change(&customer, seen, |cart| cart.set(&sku, quantity, price)).await?;
        self.show_with(cart, offers).await
    }

    /// The offers of a cart, to set a line of which. A product that is
    /// withdrawn is left for whoever shows the cart: others can be set.
    async fn offers_around(&self, cart: &Cart, sku: &Sku) -> Result<Offers, Error> {
        // Without its line there is nothing to set, which the cart says.
        if cart.line(sku).is_none() {
            return Ok(Offers::new());
        }
        for skus in [cart.lines.iter().map(|line| &line.sku).collect(), vec![sku]] {
            match self.catalogue.offers(skus).await {
                Err(Unavailable::Missing(_)) => {}
                asked => return Ok(asked?),
            }
        }
        Ok(Offers::new())
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

    /// The cart unless it still looks as the one that was sent last.
    async fn get_newer(
        &self,
        customer: &CustomerId,
        sent: Option<Look>,
    ) -> Result<Option<(Look, wire::Cart)>, Error> {
        let cart = self.store.get(customer).await?;
        let look = Look { etag: cart.etag, news: cart.news };
        if sent == Some(look) { Ok(None) } else { Ok(Some((look, self.show(cart).await?))) }
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

/// What a cart looks like follows from it: its version, and what was heard of
/// its products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    etag: Etag,
    news: i64,
}

impl From<Unavailable> for Error {
    fn from(why: Unavailable) -> Self {
        match why {
            Unavailable::Missing(skus) => Self::Withdrawn(skus),
            Unavailable::Failed(fault) => Self::Catalogue(fault),
        }
    }
}

/// Whose cart a request is about, if its caller may act for them. Who is not
/// known, or acts for another, learns nothing of the other fields.
fn permitted<T>(request: &Request<T>, customer: impl FnOnce(&T) -> &String) -> Result<CustomerId, Error> {
    let caller = Caller::of(request)?;
    let customer = request::customer(customer(request.get_ref()))?;
    caller.may_act_for(&customer)?;
    Ok(customer)
}

#[tonic::async_trait]
impl CartService for Carts {
    type WatchCartStream = UpdateStream<wire::Cart>;

    async fn get_cart(&self, request: Request<GetCartRequest>) -> Result<Response<wire::Cart>, Status> {
        let customer = permitted(&request, |get| &get.customer_id)?;
        Ok(Response::new(self.get(&customer).await?))
    }

    async fn add_item(&self, request: Request<AddItemRequest>) -> Result<Response<wire::Cart>, Status> {
        permitted(&request, |add| &add.customer_id)?;
        Ok(Response::new(self.add(request.into_inner()).await?))
    }

    async fn update_item(&self, request: Request<UpdateItemRequest>) -> Result<Response<wire::Cart>, Status> {
        permitted(&request, |update| &update.customer_id)?;
        Ok(Response::new(self.update(request.into_inner()).await?))
    }

    async fn remove_item(&self, request: Request<RemoveItemRequest>) -> Result<Response<wire::Cart>, Status> {
        permitted(&request, |remove| &remove.customer_id)?;
        Ok(Response::new(self.remove(request.into_inner()).await?))
    }

    async fn clear_cart(&self, request: Request<ClearCartRequest>) -> Result<Response<wire::Cart>, Status> {
        permitted(&request, |clear| &clear.customer_id)?;
        Ok(Response::new(self.clear(request.into_inner()).await?))
    }

    async fn watch_cart(
        &self,
        request: Request<WatchCartRequest>,
    ) -> Result<Response<Self::WatchCartStream>, Status> {
        let customer = permitted(&request, |watch| &watch.customer_id)?;
        // Before the first look, so that no change falls between the two.
        let changes = self.store.database().changes();
        let subscription = [changes.subscribe(customer.as_str()), changes.subscribe(store::NEWS)];
        let (carts, drain) = (self.clone(), self.drain.clone());
        let draining = async move { drain.draining().await };
        let read = move |sent| {
            let (carts, customer) = (carts.clone(), customer.clone());
            async move { carts.get_newer(&customer, sent).await.map_err(Status::from) }
        };
        Ok(Response::new(follow(subscription, crate::NAME, draining, read)))
    }
}
