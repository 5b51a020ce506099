//! A fake product-service.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};

use mesh_proto::shop::product::v1::{
    BatchGetProductsRequest, BatchGetProductsResponse, CommitReservationRequest, CreateProductRequest,
    DeleteProductRequest, GetProductRequest, GetReservationRequest, GetStockRequest, ListProductsRequest,
    ListProductsResponse, Product, ReleaseReservationRequest, Reservation, ReservationState,
    ReserveStockRequest, ReservedItem, SetStockRequest, Stock, UpdateProductRequest,
    product_service_server::ProductService,
};
use service_kit::error::Fault;
use tonic::{Code, Request, Response, Status};

use super::behavior::BehaviorSwitch;

/// The stock, with a million pieces of each product by default. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct FakeStock {
    shared: Arc<Mutex<Shared>>,
    pub(crate) reserving: BehaviorSwitch,
    pub(crate) committing: BehaviorSwitch,
    pub(crate) releasing: BehaviorSwitch,
}

#[derive(Default)]
struct Shared {
    available: HashMap<String, i64>,
    reservations: HashMap<String, (Vec<ReservedItem>, ReservationState)>,
}

impl FakeStock {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }

    pub(crate) fn count(&self, product_id: &str, pieces: i64) {
        self.shared().available.insert(product_id.into(), pieces);
    }

    /// The state of the reservation of an order.
    pub(crate) fn of(&self, order_id: &str) -> Option<ReservationState> {
        self.shared().reservations.get(order_id).map(|(_, state)| *state)
    }

    /// Pieces that are held or sold.
    pub(crate) fn taken(&self) -> i64 {
        let shared = self.shared();
        let holds =
            |state: &ReservationState| matches!(state, ReservationState::Held | ReservationState::Committed);
        let taken = shared.reservations.values().filter(|(_, state)| holds(state));
        taken.flat_map(|(items, _)| items).map(|item| i64::from(item.quantity)).sum()
    }

    /// Expires all held reservations.
    pub(crate) fn expire(&self) {
        let mut shared = self.shared();
        let held: Vec<_> = shared
            .reservations
            .iter()
            .filter(|(_, (_, state))| *state == ReservationState::Held)
            .map(|(id, _)| id.clone())
            .collect();
        for id in held {
            shared.leave(&id, ReservationState::Expired);
        }
    }
}

impl Shared {
    fn pieces(&mut self, product_id: &str) -> &mut i64 {
        self.available.entry(product_id.to_owned()).or_insert(1_000_000)
    }

    fn take(
        &mut self,
        id: &str,
        items: Vec<ReservedItem>,
        state: ReservationState,
    ) -> Result<Reservation, Status> {
        let short = items.iter().find(|item| *self.pieces(&item.product_id) < item.quantity.into());
        if let Some(item) = short.cloned() {
            return Err(refuse("OUT_OF_STOCK", &item.product_id));
        }
        for item in &items {
            *self.pieces(&item.product_id) -= i64::from(item.quantity);
        }
        self.reservations.insert(id.to_owned(), (items, state));
        Ok(self.show(id))
    }

    fn leave(&mut self, id: &str, becomes: ReservationState) {
        let (items, state) = self.reservations.entry(id.to_owned()).or_insert((Vec::new(), becomes)).clone();
        if matches!(state, ReservationState::Held | ReservationState::Committed) {
            for item in &items {
                *self.pieces(&item.product_id) += i64::from(item.quantity);
            }
        }
        self.reservations.insert(id.to_owned(), (items, becomes));
    }

    fn show(&self, id: &str) -> Reservation {
        let (items, state) = self.reservations[id].clone();
        Reservation { reservation_id: id.to_owned(), items, state: state.into(), expire_time: None }
    }

    fn reserve(&mut self, request: ReserveStockRequest) -> Result<Reservation, Status> {
        let id = request.reservation_id;
        match self.reservations.get(&id).map(|(items, state)| (items == &request.items, *state)) {
            None | Some((true, ReservationState::Expired)) => {
                self.take(&id, request.items, ReservationState::Held)
            }
            Some((_, ReservationState::Released)) => Err(refuse("RESERVATION_RELEASED", "")),
            Some((true, _)) => Ok(self.show(&id)),
            Some((false, _)) => Err(Status::invalid_argument("the id was used for other items")),
        }
    }

    fn commit(&mut self, id: &str) -> Result<Reservation, Status> {
        let Some((items, state)) = self.reservations.get(id).cloned() else {
            return Err(Status::not_found("no such reservation"));
        };
        match state {
            ReservationState::Released => return Err(refuse("RESERVATION_RELEASED", "")),
            ReservationState::Expired => return self.take(id, items, ReservationState::Committed),
            _ => self.reservations.insert(id.to_owned(), (items, ReservationState::Committed)),
        };
        Ok(self.show(id))
    }

    fn release(&mut self, id: &str) -> Reservation {
        self.leave(id, ReservationState::Released);
        self.show(id)
    }
}

fn refuse(reason: &'static str, product_id: &str) -> Status {
    let fault = Fault::new(Code::FailedPrecondition, reason, "it is out of stock");
    fault.with("product_ids", product_id).into_status("product-service")
}

#[tonic::async_trait]
impl ProductService for FakeStock {
    async fn reserve_stock(
        &self,
        request: Request<ReserveStockRequest>,
    ) -> Result<Response<Reservation>, Status> {
        self.reserving.apply(|| self.shared().reserve(request.into_inner())).await
    }

    async fn commit_reservation(
        &self,
        request: Request<CommitReservationRequest>,
    ) -> Result<Response<Reservation>, Status> {
        self.committing.apply(|| self.shared().commit(&request.get_ref().reservation_id)).await
    }

    async fn release_reservation(
        &self,
        request: Request<ReleaseReservationRequest>,
    ) -> Result<Response<Reservation>, Status> {
        self.releasing.apply(|| Ok(self.shared().release(&request.get_ref().reservation_id))).await
    }

    async fn get_reservation(
        &self,
        request: Request<GetReservationRequest>,
    ) -> Result<Response<Reservation>, Status> {
        Ok(Response::new(self.shared().show(&request.get_ref().reservation_id)))
    }

    async fn create_product(&self, _: Request<CreateProductRequest>) -> Result<Response<Product>, Status> {
        Err(unasked())
    }

    async fn get_product(&self, _: Request<GetProductRequest>) -> Result<Response<Product>, Status> {
        Err(unasked())
    }

    async fn batch_get_products(
        &self,
        _: Request<BatchGetProductsRequest>,
    ) -> Result<Response<BatchGetProductsResponse>, Status> {
        Err(unasked())
    }

    async fn list_products(
        &self,
        _: Request<ListProductsRequest>,
    ) -> Result<Response<ListProductsResponse>, Status> {
        Err(unasked())
    }

    async fn update_product(&self, _: Request<UpdateProductRequest>) -> Result<Response<Product>, Status> {
        Err(unasked())
    }

    async fn delete_product(&self, _: Request<DeleteProductRequest>) -> Result<Response<()>, Status> {
        Err(unasked())
    }

    async fn get_stock(&self, _: Request<GetStockRequest>) -> Result<Response<Stock>, Status> {
        Err(unasked())
    }

    async fn set_stock(&self, _: Request<SetStockRequest>) -> Result<Response<Stock>, Status> {
        Err(unasked())
    }
}

fn unasked() -> Status {
    Status::unimplemented("orders do not use this")
}
