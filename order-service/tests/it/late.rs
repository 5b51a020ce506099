//! A delayed charge: the network held its message while the same charge was sent
//! again and declined.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use mesh_proto::shop::{
    order::v1::{GetOrderRequest, OrderState, PayOrderRequest, order_service_client::OrderServiceClient},
    payment::v1::{
        ChargeRequest, ChargeResponse, ChargeState, GetBalanceRequest, GetBalanceResponse, GetChargeRequest,
        GetChargeResponse, ListChargesRequest, ListChargesResponse, RefundRequest, RefundResponse,
        payment_service_client::PaymentServiceClient,
        payment_service_server::{PaymentService, PaymentServiceServer},
    },
};
use order_service::{NAME, OrderService, carrier::Faults};
use payment_service::faults::METADATA;
use registry_client::Channel;
use service_kit::{
    database::Database,
    on_both_databases,
    service::{self, Service, ServiceContext},
    testing::{Replica, TestDatabase, mesh_of, mesh_to},
};
use tonic::{Code, Request, Response, Status};

use crate::{
    app::refused,
    crashes::create_order,
    fakes::{CARD, FakeApp, serve_fake},
};

/// A network in front of payment-service. It holds the first charges, whose senders
/// see a broken connection, and forwards the others, which are declined.
#[derive(Clone)]
struct Network {
    payments: PaymentServiceClient<Channel>,
    held: Arc<Mutex<VecDeque<ChargeRequest>>>,
    holds: usize,
}

impl Network {
    /// Delivers the oldest held charge.
    async fn deliver(&self) -> Option<Result<ChargeResponse, Status>> {
        let late = self.held.lock().unwrap().pop_front()?;
        Some(self.payments.clone().charge(late).await.map(Response::into_inner))
    }

    /// Holds a charge, up to the limit. Returns false for others.
    fn hold(&self, charge: &ChargeRequest) -> bool {
        let mut held = self.held.lock().unwrap();
        let holds = held.len() < self.holds;
        if holds {
            held.push_back(charge.clone());
        }
        holds
    }
}

#[tonic::async_trait]
impl PaymentService for Network {
    async fn charge(&self, request: Request<ChargeRequest>) -> Result<Response<ChargeResponse>, Status> {
        if self.hold(request.get_ref()) {
            return Err(Status::unavailable("the connection broke"));
        }
        let mut declined = Request::new(request.into_inner());
        declined.metadata_mut().insert(METADATA, "decline".parse().unwrap());
        self.payments.clone().charge(declined).await
    }

    async fn refund(&self, request: Request<RefundRequest>) -> Result<Response<RefundResponse>, Status> {
        self.payments.clone().refund(request.into_inner()).await
    }

    async fn get_charge(
        &self,
        request: Request<GetChargeRequest>,
    ) -> Result<Response<GetChargeResponse>, Status> {
        self.payments.clone().get_charge(request.into_inner()).await
    }

    async fn list_charges(
        &self,
        request: Request<ListChargesRequest>,
    ) -> Result<Response<ListChargesResponse>, Status> {
        self.payments.clone().list_charges(request.into_inner()).await
    }

    async fn get_balance(
        &self,
        request: Request<GetBalanceRequest>,
    ) -> Result<Response<GetBalanceResponse>, Status> {
        self.payments.clone().get_balance(request.into_inner()).await
    }
}

/// Pays while `holds` charges are held, and then delivers them: the decline that the
/// customer saw is final.
async fn decline_is_final(database: TestDatabase, ledger: TestDatabase, holds: usize) {
    // No other replica, which would resume the order through a network of its own.
    let app = FakeApp::spawn(database, 0).await;
    let sagas = app.sagas(Faults::default()).await;
    let order_id = create_order(&app, &sagas, "ada").await.to_string();
    let open = Database::open(ledger.url(), &payment_service::PaymentService::MIGRATIONS).await.unwrap();
    let context = ServiceContext::open(mesh_to([]), open);
    let service = payment_service::PaymentService { payment_faults: "metadata".into() };
    let payments = Replica::start(|listener, stop| service::serve(service, context, listener, stop)).await;
    let payments = PaymentServiceClient::new(mesh_to([payments.address]).channel("payment-service"));
    let network = Network { payments: payments.clone(), held: Arc::default(), holds };
    let between = serve_fake(PaymentServiceServer::new(network.clone())).await;
    let mesh = mesh_of([("payment-service", vec![between.address])]);
    let replica = Replica::of::<OrderService>(mesh, &app.database).await;
    let orders = OrderServiceClient::new(mesh_to([replica.address]).channel(NAME));

    let pay = || async {
        let request = PayOrderRequest { order_id: order_id.clone(), payment_method: CARD.into() };
        Ok(orders.clone().pay_order(request).await?.into_inner())
    };
    refused(app.retry(pay).await, Code::FailedPrecondition, "PAYMENT_DECLINED");
    let get = GetOrderRequest { order_id: order_id.clone() };
    assert_eq!(orders.clone().get_order(get).await.unwrap().into_inner().state(), OrderState::Confirmed);
    for _ in 0..holds {
        let late = network.deliver().await.expect("nothing was held").unwrap_err();
        assert!(matches!(late.code(), Code::Aborted | Code::FailedPrecondition), "{late:?}");
    }
    let request = GetChargeRequest { idempotency_key: order_id.clone() };
    let charge = payments.clone().get_charge(request).await.unwrap().into_inner().charge.unwrap();
    assert_eq!(charge.state(), ChargeState::Declined);
}

/// The channel retries, within one attempt of the saga.
async fn a_charge_that_arrives_after_its_repetition_was_declined_is_not_made(database: TestDatabase) {
    decline_is_final(database, TestDatabase::sqlite(), 1).await;
}

/// All messages of one attempt of the saga are held, and the next is declined.
async fn a_charge_that_arrives_after_a_later_one_was_declined_is_not_made(database: TestDatabase) {
    decline_is_final(database, TestDatabase::sqlite(), 4).await;
}

on_both_databases!(
    a_charge_that_arrives_after_its_repetition_was_declined_is_not_made,
    a_charge_that_arrives_after_a_later_one_was_declined_is_not_made,
);
