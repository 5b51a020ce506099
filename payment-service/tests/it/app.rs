//! payment-service in this process, and its calls.

use std::{fmt::Debug, time::Duration};

use mesh_proto::{
    google::r#type::Money,
    shop::payment::v1::{
        Charge, ChargeRequest, GetBalanceRequest, GetBalanceResponse, GetChargeRequest, ListChargesRequest,
        RefundRequest, payment_service_client::PaymentServiceClient,
    },
};
use payment_service::{NAME, PaymentService, faults};
use registry_client::Channel;
use service_kit::{
    database::Database,
    service::{self, Service, ServiceContext},
    testing::{self, Replica, TestDatabase, mesh_to},
};
use tonic::{Code, Request, Status};
use tonic_types::ErrorDetails;

pub(crate) struct TestApp {
    payments: PaymentServiceClient<Channel>,
    database: TestDatabase,
    replicas: Vec<Replica>,
}

impl TestApp {
    pub(crate) async fn spawn(database: TestDatabase) -> Self {
        Self::with_replicas(database, 1).await
    }

    /// Several replicas on one database, called in turn.
    pub(crate) async fn with_replicas(database: TestDatabase, number: usize) -> Self {
        let mut replicas = Vec::new();
        for _ in 0..number {
            replicas.push(Replica::of::<PaymentService>(mesh_to([]), &database).await);
        }
        Self::of(database, replicas)
    }

    /// One replica with these faults.
    pub(crate) async fn with_faults(database: TestDatabase, faults: &str) -> Self {
        let open = Database::open(database.url(), &PaymentService::MIGRATIONS).await.unwrap();
        let context = ServiceContext::open(mesh_to([]), open);
        let service = PaymentService { payment_faults: faults.into() };
        let replica = Replica::start(|listener, stop| service::serve(service, context, listener, stop));
        Self::of(database, vec![replica.await])
    }

    fn of(database: TestDatabase, replicas: Vec<Replica>) -> Self {
        let mesh = mesh_to(replicas.iter().map(|replica| replica.address));
        Self { payments: PaymentServiceClient::new(mesh.channel(NAME)), database, replicas }
    }

    /// The same database under another replica.
    pub(crate) async fn restart(self) -> Self {
        for replica in self.replicas {
            replica.stop().await;
        }
        Self::spawn(self.database).await
    }

    /// Another connection to the database.
    pub(crate) async fn database(&self) -> Database {
        Database::open(self.database.url(), &PaymentService::MIGRATIONS).await.unwrap()
    }

    pub(crate) async fn send(&self, request: Request<ChargeRequest>) -> Result<Charge, Status> {
        Ok(self.payments.clone().charge(request).await?.into_inner().charge.unwrap())
    }

    pub(crate) async fn charge(&self, key: &str, cents: i64) -> Result<Charge, Status> {
        self.send(Request::new(charging(key, cents))).await
    }

    pub(crate) async fn refund(&self, key: &str) -> Result<Charge, Status> {
        let request = RefundRequest { idempotency_key: key.into() };
        Ok(self.payments.clone().refund(request).await?.into_inner().charge.unwrap())
    }

    pub(crate) async fn get(&self, key: &str) -> Result<Charge, Status> {
        let request = GetChargeRequest { idempotency_key: key.into() };
        Ok(self.payments.clone().get_charge(request).await?.into_inner().charge.unwrap())
    }

    pub(crate) async fn list(
        &self,
        customer: &str,
        page_size: i32,
        page_token: &str,
    ) -> Result<(Vec<Charge>, String), Status> {
        let request =
            ListChargesRequest { customer_id: customer.into(), page_size, page_token: page_token.into() };
        let page = self.payments.clone().list_charges(request).await?.into_inner();
        Ok((page.charges, page.next_page_token))
    }

    pub(crate) async fn balance_in(&self, currency: &str) -> Result<GetBalanceResponse, Status> {
        let request = GetBalanceRequest { currency_code: currency.into() };
        Ok(self.payments.clone().get_balance(request).await?.into_inner())
    }

    /// The charged and refunded amounts and their difference in cents; the numbers of
    /// charges and refunds.
    pub(crate) async fn balance(&self) -> ([i64; 3], [i64; 2]) {
        let found = self.balance_in("EUR").await.unwrap();
        let cents = |money: Option<Money>| {
            let money = money.unwrap();
            money.units * 100 + i64::from(money.nanos) / 10_000_000
        };
        let amounts = [found.charged, found.refunded, found.balance].map(cents);
        (amounts, [found.charges, found.refunds])
    }
}

pub(crate) fn eur(cents: i64) -> Money {
    let nanos = i32::try_from(cents % 100 * 10_000_000).unwrap();
    Money { currency_code: "EUR".into(), units: cents / 100, nanos }
}

pub(crate) fn charging(key: &str, cents: i64) -> ChargeRequest {
    ChargeRequest {
        idempotency_key: key.into(),
        customer_id: "ada".into(),
        amount: Some(eur(cents)),
        payment_method: "pm_card_visa".into(),
        fencing_token: 0,
    }
}

/// A charge with a card that is always declined.
pub(crate) fn declining(key: &str, cents: i64) -> Request<ChargeRequest> {
    Request::new(ChargeRequest { payment_method: "pm_card_declined".into(), ..charging(key, cents) })
}

/// A charge that requests a fault, with a deadline.
pub(crate) fn faulty(key: &str, fault: &str, timeout: Duration) -> Request<ChargeRequest> {
    let mut request = Request::new(charging(key, 499));
    request.metadata_mut().insert(faults::METADATA, fault.parse().unwrap());
    request.set_timeout(timeout);
    request
}

pub(crate) fn new_key() -> String {
    uuid::Uuid::new_v4().to_string()
}

#[track_caller]
pub(crate) fn refused<T: Debug>(result: Result<T, Status>, code: Code, reason: &str) -> ErrorDetails {
    testing::refused(NAME, result, code, reason)
}

#[track_caller]
pub(crate) fn refused_fields<T: Debug>(result: Result<T, Status>, expected: &[&str]) {
    testing::refused_fields(NAME, result, expected);
}
