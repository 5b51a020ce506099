//! The five services with authentication, and their callers.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Mutex,
};

use bytes::Bytes;
use cart_service::CartService;
use http::uri::PathAndQuery;
use order_service::OrderService;
use payment_service::PaymentService;
use product_service::ProductService;
use registry_client::Mesh;
use secrecy::SecretString;
use serde_json::{Value, json};
use service_kit::{
    auth::{Auth, Outgoing, Seed},
    database::Database,
    service::{self, Service, ServiceContext},
    testing::{TestDatabase, mesh_of},
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tonic::{Code, Request, Status, client::Grpc};
use tonic_types::StatusExt;
use user_service::{AdminOptions, UserService};

use crate::dynamic::{BytesCodec, Method};

pub(crate) const ADMIN: &str = "root@shop.example";
pub(crate) const ADMIN_PASSWORD: &str = "canary-admin-password-7713";
/// The password of all other accounts.
pub(crate) const PASSWORD: &str = "canary-password-2291";

const NAMES: [&str; 5] =
    ["cart-service", "order-service", "payment-service", "product-service", "user-service"];

/// user-service with its first admin.
fn users() -> UserService {
    let (email, password) = (Some(ADMIN.into()), Some(ADMIN_PASSWORD.into()));
    UserService {
        admin: AdminOptions { email, password, ..AdminOptions::default() },
        ..UserService::default()
    }
}

/// An account.
#[derive(Clone)]
pub(crate) struct Person {
    pub(crate) id: String,
    pub(crate) email: String,
    pub(crate) access: String,
    pub(crate) refresh: String,
}

/// The caller of a method.
#[derive(Clone)]
pub(crate) enum Caller {
    Nobody,
    Person(Person),
    Service(&'static str),
}

/// A running service.
struct RunningService {
    stop: oneshot::Sender<()>,
    done: JoinHandle<anyhow::Result<()>>,
}

/// The five services, on databases of their own, resolving each other by name.
pub(crate) struct Shop {
    mesh: Mesh,
    pub(crate) seed: Seed,
    addresses: HashMap<&'static str, SocketAddr>,
    running: HashMap<&'static str, RunningService>,
    databases: HashMap<&'static str, TestDatabase>,
}

impl Shop {
    /// Starts the shop on databases of the same kind as `like`.
    pub(crate) async fn open(like: &TestDatabase) -> Self {
        let mut addresses = HashMap::new();
        let mut listeners = HashMap::new();
        let mut databases = HashMap::new();
        for name in NAMES {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.insert(name, listener.local_addr().unwrap());
            listeners.insert(name, listener);
            databases.insert(name, like.another().await);
        }
        let mesh = mesh_between(&addresses);
        let seed = Seed::generate().unwrap();
        let mut shop = Self { mesh, seed, addresses, running: HashMap::new(), databases };
        shop.start(users(), listeners.remove("user-service").unwrap()).await;
        shop.start(ProductService, listeners.remove("product-service").unwrap()).await;
        shop.start(PaymentService::default(), listeners.remove("payment-service").unwrap()).await;
        shop.start(CartService, listeners.remove("cart-service").unwrap()).await;
        shop.start(OrderService::default(), listeners.remove("order-service").unwrap()).await;
        shop
    }

    async fn start<S: Service>(&mut self, service: S, listener: TcpListener) {
        let database = Database::open(self.databases[S::NAME].url(), &S::MIGRATIONS).await.unwrap();
        let auth = self.auth(S::NAME);
        let context =
            ServiceContext { auth, ..ServiceContext::open(mesh_between(&self.addresses), database) };
        let (stop, stopped) = oneshot::channel::<()>();
        let done = tokio::spawn(service::serve(service, context, listener, async move {
            let _ = stopped.await;
        }));
        self.running.insert(S::NAME, RunningService { stop, done });
    }

    /// Stops user-service, as SIGTERM would.
    pub(crate) async fn stop_users(&mut self) {
        let RunningService { stop, done } = self.running.remove("user-service").unwrap();
        drop(stop);
        done.await.unwrap().unwrap();
    }

    /// Starts user-service again on its address.
    pub(crate) async fn start_users(&mut self) {
        let listener = TcpListener::bind(self.addresses["user-service"]).await.unwrap();
        self.start(users(), listener).await;
    }

    pub(crate) fn address(&self, service: &str) -> SocketAddr {
        self.addresses[service]
    }

    /// The authentication of `service`, for its callers and its own calls.
    pub(crate) fn auth(&self, service: &'static str) -> Auth {
        Auth::on(service, Seed::of(self.seed.expose()).unwrap()).unwrap()
    }

    /// A channel to `service`, for `who`.
    fn channel(&self, service: &str, who: &Caller) -> Outgoing {
        let channel = self.mesh.channel(service);
        match who {
            Caller::Nobody => Auth::off().client(channel),
            Caller::Person(person) => {
                Outgoing::with_token(channel, &SecretString::from(person.access.as_str())).unwrap()
            }
            Caller::Service(name) => self.auth(name).client(channel),
        }
    }

    /// Sends these bytes as the request of `path`; returns the first message of
    /// a stream.
    pub(crate) async fn send(&self, who: &Caller, path: &str, bytes: Bytes) -> Result<Value, Status> {
        let method = method(path);
        self.send_to(&serving_service(&method), who, &method, bytes).await
    }

    async fn send_to(
        &self,
        service: &str,
        who: &Caller,
        method: &Method,
        bytes: Bytes,
    ) -> Result<Value, Status> {
        let mut client = Grpc::new(self.channel(service, who));
        client.ready().await?;
        let (path, request): (PathAndQuery, _) = (method.path(), Request::new(bytes));
        let response = if method.is_server_streaming() {
            let mut messages = client.server_streaming(request, path, BytesCodec).await?.into_inner();
            messages.message().await?.expect("a stream that is accepted begins")
        } else {
            client.unary(request, path, BytesCodec).await?.into_inner()
        };
        Ok(method.decode(response).unwrap())
    }

    /// The same as [`send`](Self::send), with a request in JSON.
    pub(crate) async fn call(&self, who: &Caller, path: &str, body: &Value) -> Result<Value, Status> {
        let bytes = method(path).encode(&body.to_string()).unwrap();
        self.send(who, path, bytes).await
    }

    /// The same as [`call`](Self::call), to the given service.
    pub(crate) async fn call_at(
        &self,
        service: &str,
        who: &Caller,
        path: &str,
        body: &Value,
    ) -> Result<Value, Status> {
        let method = method(path);
        let bytes = method.encode(&body.to_string()).unwrap();
        self.send_to(service, who, &method, bytes).await
    }

    /// The same as [`call`](Self::call), which must succeed.
    pub(crate) async fn must(&self, who: &Caller, path: &str, body: Value) -> Value {
        let response = self.call(who, path, &body).await;
        response.unwrap_or_else(|why| panic!("{path} {body}: {why:?}"))
    }

    /// Registers an account and logs in.
    pub(crate) async fn join(&self, email: &str) -> Person {
        let body = json!({"email": email, "password": PASSWORD});
        self.must(&Caller::Nobody, "shop.user.v1.UserService/Register", body).await;
        self.log_in(email, PASSWORD).await
    }

    pub(crate) async fn log_in(&self, email: &str, password: &str) -> Person {
        let body = json!({"email": email, "password": password});
        let tokens = self.must(&Caller::Nobody, "shop.user.v1.UserService/Login", body).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Person {
            id: text(&tokens["user"]["user_id"]),
            email: email.into(),
            access: text(&tokens["access_token"]),
            refresh: text(&tokens["refresh_token"]),
        }
    }

    /// Registers an account, gives it the staff role as an admin, and logs in
    /// again.
    pub(crate) async fn hire(&self, email: &str) -> Person {
        let (admin, person) = (self.log_in(ADMIN, ADMIN_PASSWORD).await, self.join(email).await);
        let user = json!({"user_id": person.id, "roles": ["ROLE_CUSTOMER", "ROLE_STAFF"]});
        let body = json!({"user": user, "update_mask": "roles"});
        self.must(&Caller::Person(admin), "shop.user.v1.UserService/UpdateUser", body).await;
        self.log_in(email, PASSWORD).await
    }
}

/// The method at `path`, cached because parsing the protocol is slow.
fn method(path: &str) -> Method {
    static FOUND: Mutex<BTreeMap<String, Method>> = Mutex::new(BTreeMap::new());
    let mut found = FOUND.lock().unwrap();
    found.entry(path.to_owned()).or_insert_with(|| Method::find(path).unwrap()).clone()
}

fn mesh_between(addresses: &HashMap<&'static str, SocketAddr>) -> Mesh {
    mesh_of(addresses.iter().map(|(name, address)| (*name, vec![*address])))
}

/// The service that serves `method`; one of them if several do.
pub(crate) fn serving_service(method: &Method) -> String {
    match method.service_name().as_str() {
        "event-sink-service" => "cart-service".to_owned(),
        "event-log-service" => "order-service".to_owned(),
        name => name.to_owned(),
    }
}

/// The code and the reason of a failure; OK of what succeeded.
pub(crate) fn outcome<T>(response: &Result<T, Status>) -> (Code, String) {
    match response {
        Ok(_) => (Code::Ok, String::new()),
        Err(status) => {
            let info = status.get_details_error_info();
            (status.code(), info.map(|info| info.reason).unwrap_or_default())
        }
    }
}
