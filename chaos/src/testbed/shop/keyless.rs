//! Payments without the mechanism that R25 guards: each attempt to charge gets
//! an idempotency key of its own.

use mesh_proto::shop::payment::v1::{
    ChargeRequest, ChargeResponse, GetBalanceRequest, GetBalanceResponse, GetChargeRequest,
    GetChargeResponse, ListChargesRequest, ListChargesResponse, RefundRequest, RefundResponse,
    payment_service_server::{PaymentService as Rpcs, PaymentServiceServer},
};
use payment_service::{PaymentService, Payments, store::Store};
use service_kit::{
    database::Migrations,
    service::{Service, ServiceBuilder, ServiceContext},
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

/// The mechanism that is switched off.
pub(crate) const ONE_KEY: &str = "one key for all tries to charge an order";

/// The service.
pub(super) struct KeylessPayments(pub(super) PaymentService);

struct Keyless(Payments);

impl Service for KeylessPayments {
    const NAME: &'static str = PaymentService::NAME;
    const VERSION: &'static str = PaymentService::VERSION;
    const MIGRATIONS: Migrations = PaymentService::MIGRATIONS;

    async fn build(
        &self,
        context: &ServiceContext,
        builder: ServiceBuilder,
    ) -> anyhow::Result<ServiceBuilder> {
        let payments = Payments::new(Store::new(context.database.clone()), self.0.faults()?);
        Ok(builder.serve(PaymentServiceServer::new(Keyless(payments))))
    }
}

#[tonic::async_trait]
impl Rpcs for Keyless {
    async fn charge(&self, mut request: Request<ChargeRequest>) -> Result<Response<ChargeResponse>, Status> {
        request.get_mut().idempotency_key = Uuid::now_v7().to_string();
        Rpcs::charge(&self.0, request).await
    }

    async fn refund(&self, request: Request<RefundRequest>) -> Result<Response<RefundResponse>, Status> {
        Rpcs::refund(&self.0, request).await
    }

    async fn get_charge(
        &self,
        request: Request<GetChargeRequest>,
    ) -> Result<Response<GetChargeResponse>, Status> {
        Rpcs::get_charge(&self.0, request).await
    }

    async fn list_charges(
        &self,
        request: Request<ListChargesRequest>,
    ) -> Result<Response<ListChargesResponse>, Status> {
        Rpcs::list_charges(&self.0, request).await
    }

    async fn get_balance(
        &self,
        request: Request<GetBalanceRequest>,
    ) -> Result<Response<GetBalanceResponse>, Status> {
        Rpcs::get_balance(&self.0, request).await
    }
}
