//! The five services, behind the guard, and those who call them.

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

use crate::dynamic::{Method, Raw};

pub(crate) const ADMIN: &str = "root@shop.example";
pub(crate) const ADMIN_PASSWORD: &str = "canary-admin-password-7713";
/// The password of everybody else.
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

/// Somebody with an account.
#[derive(Clone)]
pub(crate) struct Person {
    pub(crate) id: String,
    pub(crate) email: String,
    pub(crate) access: String,
    pub(crate) refresh: String,
}

/// Who calls.
#[derive(Clone)]
pub(crate) enum Who {
    Nobody,
    Person(Person),
    Service(&'static str),
}

/// A service that runs.
struct Running {
    stop: oneshot::Sender<()>,
    done: JoinHandle<anyhow::Result<()>>,
}

/// The five, on databases of their own, finding one another by name.
pub(crate) struct Shop {
    mesh: Mesh,
    pub(crate) seed: Seed,
    addresses: HashMap<&'static str, SocketAddr>,
    running: HashMap<&'static str, Running>,
    databases: HashMap<&'static str, TestDatabase>,
}

impl Shop {
    /// Starts it. `like` says on which kind of database.
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
        self.running.insert(S::NAME, Running { stop, done });
    }

    /// Stops user-service, as SIGTERM would.
    pub(crate) async fn stop_users(&mut self) {
        let Running { stop, done } = self.running.remove("user-service").unwrap();
        drop(stop);
        done.await.unwrap().unwrap();
    }

    /// Starts it where it was.
    pub(crate) async fn start_users(&mut self) {
        let listener = TcpListener::bind(self.addresses["user-service"]).await.unwrap();
        self.start(users(), listener).await;
    }

    pub(crate) fn address(&self, service: &str) -> SocketAddr {
        self.addresses[service]
    }

    /// What `service` asks callers by, and shows who it is.
    pub(crate) fn auth(&self, service: &'static str) -> Auth {
        Auth::on(service, Seed::of(self.seed.expose()).unwrap()).unwrap()
    }

    /// A channel to `service`, for `who`.
    fn channel(&self, service: &str, who: &Who) -> Outgoing {
        let channel = self.mesh.channel(service);
        match who {
            Who::Nobody => Auth::off().client(channel),
            Who::Person(person) => {
                Outgoing::with_token(channel, &SecretString::from(person.access.as_str())).unwrap()
            }
            Who::Service(name) => self.auth(name).client(channel),
        }
    }

    /// Sends these bytes as the request of `path`; of a stream, the first
    /// answer.
    pub(crate) async fn send(&self, who: &Who, path: &str, bytes: Bytes) -> Result<Value, Status> {
        let method = method(path);
        self.send_to(&serving(&method), who, &method, bytes).await
    }

    async fn send_to(
        &self,
        service: &str,
        who: &Who,
        method: &Method,
        bytes: Bytes,
    ) -> Result<Value, Status> {
        let mut client = Grpc::new(self.channel(service, who));
        client.ready().await?;
        let (path, request): (PathAndQuery, _) = (method.path(), Request::new(bytes));
        let answer = if method.streams() {
            let mut answers = client.server_streaming(request, path, Raw).await?.into_inner();
            answers.message().await?.expect("a stream that is accepted begins")
        } else {
            client.unary(request, path, Raw).await?.into_inner()
        };
        Ok(method.decode(answer).unwrap())
    }

    /// As [`send`](Self::send), of a request in JSON.
    pub(crate) async fn call(&self, who: &Who, path: &str, body: &Value) -> Result<Value, Status> {
        let bytes = method(path).encode(&body.to_string()).unwrap();
        self.send(who, path, bytes).await
    }

    /// As [`call`](Self::call), of one of the services that serve it.
    pub(crate) async fn call_at(
        &self,
        service: &str,
        who: &Who,
        path: &str,
        body: &Value,
    ) -> Result<Value, Status> {
        let method = method(path);
        let bytes = method.encode(&body.to_string()).unwrap();
        self.send_to(service, who, &method, bytes).await
    }

    /// As [`call`](Self::call), which must succeed.
    pub(crate) async fn must(&self, who: &Who, path: &str, body: Value) -> Value {
        let answer = self.call(who, path, &body).await;
        answer.unwrap_or_else(|why| panic!("{path} {body}: {why:?}"))
    }

    /// Makes an account and logs in.
    pub(crate) async fn join(&self, email: &str) -> Person {
        let body = json!({"email": email, "password": PASSWORD});
        self.must(&Who::Nobody, "shop.user.v1.UserService/Register", body).await;
        self.log_in(email, PASSWORD).await
    }

    pub(crate) async fn log_in(&self, email: &str, password: &str) -> Person {
        let body = json!({"email": email, "password": password});
        let tokens = self.must(&Who::Nobody, "shop.user.v1.UserService/Login", body).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Person {
            id: text(&tokens["user"]["user_id"]),
            email: email.into(),
            access: text(&tokens["access_token"]),
            refresh: text(&tokens["refresh_token"]),
        }
    }

    /// Makes somebody staff, as an admin does, and lets them log in again.
    pub(crate) async fn hire(&self, email: &str) -> Person {
        let (admin, person) = (self.log_in(ADMIN, ADMIN_PASSWORD).await, self.join(email).await);
        let user = json!({"user_id": person.id, "roles": ["ROLE_CUSTOMER", "ROLE_STAFF"]});
        let body = json!({"user": user, "update_mask": "roles"});
        self.must(&Who::Person(admin), "shop.user.v1.UserService/UpdateUser", body).await;
        self.log_in(email, PASSWORD).await
    }
}

/// The method at `path`. Reading the protocol is what takes long, so each is
/// found once.
fn method(path: &str) -> Method {
    static FOUND: Mutex<BTreeMap<String, Method>> = Mutex::new(BTreeMap::new());
    let mut found = FOUND.lock().unwrap();
    found.entry(path.to_owned()).or_insert_with(|| Method::find(path).unwrap()).clone()
}

fn mesh_between(addresses: &HashMap<&'static str, SocketAddr>) -> Mesh {
    mesh_of(addresses.iter().map(|(name, address)| (*name, vec![*address])))
}

/// The service that answers `method`; of those that all serve, one that does.
pub(crate) fn serving(method: &Method) -> String {
    match method.service_name().as_str() {
        "event-sink-service" => "cart-service".to_owned(),
        "event-log-service" => "order-service".to_owned(),
        name => name.to_owned(),
    }
}

/// The code and the reason of a failure; OK of what succeeded.
pub(crate) fn outcome<T>(answer: &Result<T, Status>) -> (Code, String) {
    match answer {
        Ok(_) => (Code::Ok, String::new()),
        Err(status) => {
            let info = status.get_details_error_info();
            (status.code(), info.map(|info| info.reason).unwrap_or_default())
        }
    }
}
