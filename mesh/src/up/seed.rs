//! The first data of a new shop: products, their stock, and a customer.

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

/// The initial stock of each product.
const INITIAL_STOCK: i64 = 1_000_000;
/// The etag of a stock that was never set.
const UNSET_ETAG: &str = "0";
/// The interval between two calls to a service that is not available yet.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// A logged-in customer, if callers are authenticated.
#[derive(Clone)]
pub(crate) struct Customer {
    pub(crate) id: String,
    /// An access token.
    pub(crate) token: String,
}

/// The token is left out.
impl std::fmt::Debug for Customer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Customer").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Creates `products` and their stock through the mesh, and a customer if
/// callers are authenticated. Waits for the services for at most `timeout`. A
/// product that exists and differs stays as it is, and so does stock that was
/// ever set.
///
/// # Errors
/// The status of the first call that failed.
pub(crate) async fn seed(
    mesh: &Mesh,
    access: &Access,
    products: Vec<Product>,
    timeout: Duration,
) -> Result<Option<Customer>, Status> {
    let deadline = Instant::now() + timeout;
    let (customer, bearer) = match access {
        Access::Open => (None, None),
        Access::Authenticated(secrets) => {
            let (customer, bearer) = log_in_all(mesh, secrets, deadline).await?;
            (Some(customer), Some(bearer))
        }
    };
    let stock = CatalogSeeder {
        client: ProductServiceClient::new(mesh.channel("product-service")),
        bearer,
        deadline,
    };
    try_join_all(products.into_iter().map(|product| stock.add(product))).await?;
    Ok(customer)
}

/// Creates products and sets their stock, with an admin's token.
struct CatalogSeeder {
    client: ProductServiceClient<Channel>,
    bearer: Option<MetadataValue<Ascii>>,
    deadline: Instant,
}

impl CatalogSeeder {
    async fn add(&self, product: Product) -> Result<(), Status> {
        let product_id = product.product_id.clone();
        let create = CreateProductRequest { product: Some(product) };
        let created = retry_until_available(self.deadline, || {
            let (mut client, request) = (self.client.clone(), self.request(create.clone()));
            async move { client.create_product(request).await }
        });
        ok_or(created.await, Code::AlreadyExists)?;
        let set = SetStockRequest { product_id, available: INITIAL_STOCK, etag: UNSET_ETAG.to_owned() };
        let set = retry_until_available(self.deadline, || {
            let (mut client, request) = (self.client.clone(), self.request(set.clone()));
            async move { client.set_stock(request).await }
        });
        ok_or(set.await, Code::Aborted)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.deadline.saturating_duration_since(Instant::now()));
        if let Some(bearer) = &self.bearer {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        request
    }
}

/// Logs the customer and the admin in; returns the customer and the admin's
/// bearer token.
async fn log_in_all(
    mesh: &Mesh,
    Secrets { admin, customer, .. }: &Secrets,
    deadline: Instant,
) -> Result<(Customer, MetadataValue<Ascii>), Status> {
    let users = UserServiceClient::new(mesh.channel("user-service"));
    let register = RegisterRequest {
        email: customer.email.to_owned(),
        password: customer.password.clone(),
        display_name: "Ada".to_owned(),
    };
    let registered = retry_until_available(deadline, || {
        let (mut users, mut request) = (users.clone(), Request::new(register.clone()));
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        async move { users.register(request).await }
    });
    ok_or(registered.await, Code::AlreadyExists)?;
    let (customer, admin) =
        tokio::try_join!(log_in_as(&users, customer, deadline), log_in_as(&users, admin, deadline))?;
    let bearer = format!("Bearer {}", admin.access_token).parse();
    let bearer = bearer.map_err(|_| Status::internal("user-service sent a malformed token"))?;
    let id = customer.user.map(|user| user.user_id).unwrap_or_default();
    Ok((Customer { id, token: customer.access_token }, bearer))
}

async fn log_in_as(
    users: &UserServiceClient<Channel>,
    account: &Account,
    deadline: Instant,
) -> Result<Tokens, Status> {
    let login = LoginRequest { email: account.email.to_owned(), password: account.password.clone() };
    let log_in_as = retry_until_available(deadline, || {
        let (mut users, mut request) = (users.clone(), Request::new(login.clone()));
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        async move { users.login(request).await }
    });
    let response = log_in_as.await.map_err(|status| {
        let message = format!("{} cannot log in: {}", account.email, status.message());
        Status::new(status.code(), message)
    })?;
    Ok(response.into_inner())
}

/// Repeats an idempotent call while the service is unavailable: it may be
/// starting, or wait for another that is.
async fn retry_until_available<T, F>(deadline: Instant, mut call: impl FnMut() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<T, Status>>,
{
    loop {
        match call().await {
            Err(status)
                if status.code() == Code::Unavailable && Instant::now() + RETRY_INTERVAL < deadline =>
            {
                sleep(RETRY_INTERVAL).await;
            }
            response => return response,
        }
    }
}

/// Treats the code `done` as success: the data is there already.
fn ok_or<T>(response: Result<T, Status>, done: Code) -> Result<(), Status> {
    match response {
        Err(status) if status.code() != done => Err(status),
        _ => Ok(()),
    }
}
