//! What a new shop begins with: products, pieces of them, and a customer.

use std::time::Duration;

use futures_util::future::try_join_all;
use mesh_proto::shop::{
    product::v1::{
        CreateProductRequest, Product, SetStockRequest, product_service_client::ProductServiceClient,
    },
    user::v1::{LoginRequest, RegisterRequest, Tokens, user_service_client::UserServiceClient},
};
use registry_client::{Channel, Mesh};
use tokio::time::{Instant, sleep};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
};

use super::access::{Access, Account, Secrets};

/// How many pieces of each product there are.
const PIECES: i64 = 1_000_000;
/// The etag of a stock that was never set.
const NEVER_SET: &str = "0";
/// How long to wait before a service that is just starting is asked again.
const AGAIN: Duration = Duration::from_millis(100);

/// Somebody who can buy, where callers are asked who they are.
#[derive(Clone)]
pub(crate) struct Customer {
    pub(crate) id: String,
    /// An access token.
    pub(crate) token: String,
}

/// Its token is nobody's business.
impl std::fmt::Debug for Customer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Customer").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Makes `products` and their stock through the mesh, as any caller would, and
/// a customer where one must be somebody. Waits for the services to be there,
/// at most `patience`. A product that exists and differs was changed by
/// somebody and stays as it is, and so does stock that was ever set.
///
/// # Errors
/// What the first call that failed was answered.
pub(crate) async fn seed(
    mesh: &Mesh,
    access: &Access,
    products: Vec<Product>,
    patience: Duration,
) -> Result<Option<Customer>, Status> {
    let until = Instant::now() + patience;
    let (customer, bearer) = match access {
        Access::Open => (None, None),
        Access::Guarded(secrets) => {
            let (customer, bearer) = log_in(mesh, secrets, until).await?;
            (Some(customer), Some(bearer))
        }
    };
    let stock = Stock { client: ProductServiceClient::new(mesh.channel("product-service")), bearer, until };
    try_join_all(products.into_iter().map(|product| stock.add(product))).await?;
    Ok(customer)
}

/// The catalogue, as somebody who keeps it sees it.
struct Stock {
    client: ProductServiceClient<Channel>,
    bearer: Option<MetadataValue<Ascii>>,
    until: Instant,
}

impl Stock {
    async fn add(&self, product: Product) -> Result<(), Status> {
        let product_id = product.product_id.clone();
        let create = CreateProductRequest { product: Some(product) };
        let created = persist(self.until, || {
            let (mut client, request) = (self.client.clone(), self.request(create.clone()));
            async move { client.create_product(request).await }
        });
        unless(created.await, Code::AlreadyExists)?;
        let set = SetStockRequest { product_id, available: PIECES, etag: NEVER_SET.to_owned() };
        let set = persist(self.until, || {
            let (mut client, request) = (self.client.clone(), self.request(set.clone()));
            async move { client.set_stock(request).await }
        });
        unless(set.await, Code::Aborted)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.until.saturating_duration_since(Instant::now()));
        if let Some(bearer) = &self.bearer {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        request
    }
}

/// A customer, and what an admin's calls carry.
async fn log_in(
    mesh: &Mesh,
    Secrets { admin, customer, .. }: &Secrets,
    until: Instant,
) -> Result<(Customer, MetadataValue<Ascii>), Status> {
    let users = UserServiceClient::new(mesh.channel("user-service"));
    let register = RegisterRequest {
        email: customer.email.to_owned(),
        password: customer.password.clone(),
        display_name: "Ada".to_owned(),
    };
    let registered = persist(until, || {
        let (mut users, mut request) = (users.clone(), Request::new(register.clone()));
        request.set_timeout(until.saturating_duration_since(Instant::now()));
        async move { users.register(request).await }
    });
    unless(registered.await, Code::AlreadyExists)?;
    let (customer, admin) = tokio::try_join!(tokens(&users, customer, until), tokens(&users, admin, until))?;
    let bearer = format!("Bearer {}", admin.access_token).parse();
    let bearer = bearer.map_err(|_| Status::internal("user-service sent a token that is none"))?;
    let id = customer.user.map(|user| user.user_id).unwrap_or_default();
    Ok((Customer { id, token: customer.access_token }, bearer))
}

async fn tokens(
    users: &UserServiceClient<Channel>,
    account: &Account,
    until: Instant,
) -> Result<Tokens, Status> {
    let login = LoginRequest { email: account.email.to_owned(), password: account.password.clone() };
    let tokens = persist(until, || {
        let (mut users, mut request) = (users.clone(), Request::new(login.clone()));
        request.set_timeout(until.saturating_duration_since(Instant::now()));
        async move { users.login(request).await }
    });
    let answer = tokens.await.map_err(|status| {
        let words = format!("{} cannot log in: {}", account.email, status.message());
        Status::new(status.code(), words)
    })?;
    Ok(answer.into_inner())
}

/// Asks again for as long as a service is not there: it may be starting, or
/// wait for another that is. What is asked so may be asked twice.
async fn persist<T, F>(until: Instant, mut ask: impl FnMut() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<T, Status>>,
{
    loop {
        match ask().await {
            Err(status) if status.code() == Code::Unavailable && Instant::now() + AGAIN < until => {
                sleep(AGAIN).await;
            }
            answer => return answer,
        }
    }
}

/// Fine, also when it is as it shall be already.
fn unless<T>(answer: Result<T, Status>, done: Code) -> Result<(), Status> {
    match answer {
        Err(status) if status.code() != done => Err(status),
        _ => Ok(()),
    }
}
