//! The keys of user-service, over the mesh.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use mesh_proto::shop::user::v1::{
    self as wire, Jwk, Jwks, Revocation,
    user_service_server::{UserService, UserServiceServer},
};
use serde_json::json;
use service_kit::{
    auth::{Claims, PublicKey, Role, Signer, digest_of},
    testing::{Replica, mesh_of, mesh_to, refused},
    value::CustomerId,
};
use tonic::{Code, Request, Response, Status};

use super::{
    behind::{Behind, NAME},
    forge::Forge,
};

const METHOD: &str = "/shop.order.v1.OrderService/GetOrder";

/// A user-service that gives what keys the test says, or is away.
#[derive(Clone, Default)]
pub(crate) struct Users {
    keys: Arc<Mutex<Option<Vec<Jwk>>>>,
    revocations: Arc<Mutex<Vec<Revocation>>>,
    requests: Arc<AtomicUsize>,
}

impl Users {
    pub(crate) async fn spawn(&self) -> Replica {
        let users = self.clone();
        let serve = |listener, shutdown| async move {
            let server = mesh_to([]).serve("user-service").add_service(UserServiceServer::new(users));
            Ok(server.run(listener, shutdown).await?)
        };
        Replica::start(serve).await
    }

    pub(crate) fn has(&self, keys: &[&PublicKey]) {
        *self.keys.lock().unwrap() = Some(keys.iter().map(|key| key.to_jwk()).collect());
    }

    fn revokes(&self, subject: &str, not_before: i64) {
        *self.revocations.lock().unwrap() = vec![Revocation { subject: digest_of(subject), not_before }];
    }

    fn requests(&self) -> usize {
        self.requests.load(Relaxed)
    }
}

#[tonic::async_trait]
impl UserService for Users {
    async fn get_jwks(&self, _: Request<wire::GetJwksRequest>) -> Result<Response<Jwks>, Status> {
        self.requests.fetch_add(1, Relaxed);
        let keys = self.keys.lock().unwrap().clone();
        let revocations = self.revocations.lock().unwrap().clone();
        keys.map(|keys| Response::new(Jwks { keys, revocations })).ok_or_else(|| Status::unavailable("away"))
    }

    async fn register(&self, _: Request<wire::RegisterRequest>) -> Result<Response<wire::User>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn login(&self, _: Request<wire::LoginRequest>) -> Result<Response<wire::Tokens>, Status> {
        Err(Status::unauthenticated("no account has this address and this password"))
    }

    async fn refresh_token(
        &self,
        _: Request<wire::RefreshTokenRequest>,
    ) -> Result<Response<wire::Tokens>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_user(&self, _: Request<wire::GetUserRequest>) -> Result<Response<wire::User>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn update_user(&self, _: Request<wire::UpdateUserRequest>) -> Result<Response<wire::User>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn delete_user(&self, _: Request<wire::DeleteUserRequest>) -> Result<Response<()>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_notifications(
        &self,
        _: Request<wire::ListNotificationsRequest>,
    ) -> Result<Response<wire::ListNotificationsResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

fn token(signer: &Signer) -> String {
    let claims = Claims::new(CustomerId::parse("ada").unwrap(), [Role::Customer], Claims::MAX_LIFETIME / 4);
    signer.sign(&claims)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_is_believed_at_once_beside_the_old() {
    let users = Users::default();
    let (old, new) = (Signer::generate().unwrap(), Signer::generate().unwrap());
    users.has(&[old.public()]);
    let replica = users.spawn().await;
    let behind = Behind::over(mesh_of([("user-service", vec![replica.address])])).await;
    behind.with_token(METHOD, &token(&old)).await.unwrap();
    users.has(&[old.public(), new.public()]);
    behind.with_token(METHOD, &token(&new)).await.unwrap();
    behind.with_token(METHOD, &token(&old)).await.unwrap();
    // A third request when this took long, at the regular interval.
    assert!((2..=3).contains(&users.requests()), "{} requests", users.requests());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_keys_make_no_storm() {
    let users = Users::default();
    let signer = Signer::generate().unwrap();
    users.has(&[signer.public()]);
    let replica = users.spawn().await;
    let behind = Behind::over(mesh_of([("user-service", vec![replica.address])])).await;
    behind.with_token(METHOD, &token(&signer)).await.unwrap();
    let began = Instant::now();
    let forge = Forge::of(&behind.callers);
    let forged: Vec<_> = (0..500).map(|n| forge.headed(&json!({ "kid": format!("forged-{n}") }))).collect();
    let answers = join_all(forged.iter().map(|token| behind.with_token(METHOD, token))).await;
    let refusals = answers
        .into_iter()
        .filter(|answer| answer.as_ref().is_err_and(|status| status.code() == Code::Unauthenticated));
    // The server limits rejected some calls before the guard.
    assert!(refusals.count() > 100);
    let regular = usize::try_from(began.elapsed().as_secs()).unwrap();
    assert!(users.requests() <= 3 + regular, "{} requests", users.requests());
    behind.with_token(METHOD, &token(&signer)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_keys_a_token_is_neither_believed_nor_called_bad() {
    let users = Users::default();
    let replica = users.spawn().await;
    let behind = Behind::over(mesh_of([("user-service", vec![replica.address])])).await;
    let signer = Signer::generate().unwrap();
    let answer = behind.with_token(METHOD, &token(&signer)).await;
    refused(NAME, answer, Code::Unavailable, "KEYS_UNAVAILABLE");
    // Services know each other nevertheless, and malformed stays malformed.
    let service = Forge::of(&behind.callers).service(&json!({}));
    behind.with_token("/shop.payment.v1.PaymentService/Charge", &service).await.unwrap();
    refused(NAME, behind.with_token(METHOD, "a.b.c").await, Code::Unauthenticated, "TOKEN_INVALID");
    users.has(&[signer.public()]);
    loop {
        match behind.with_token(METHOD, &token(&signer)).await {
            Ok(_) => break,
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_believed_while_user_service_is_away() {
    let users = Users::default();
    let signer = Signer::generate().unwrap();
    users.has(&[signer.public()]);
    let replica = users.spawn().await;
    let behind = Behind::over(mesh_of([("user-service", vec![replica.address])])).await;
    behind.with_token(METHOD, &token(&signer)).await.unwrap();
    replica.stop().await;
    for _ in 0..20 {
        behind.with_token(METHOD, &token(&signer)).await.unwrap();
    }
    let other = Signer::generate().unwrap();
    refused(NAME, behind.with_token(METHOD, &token(&other)).await, Code::Unauthenticated, "TOKEN_INVALID");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_is_refused_within_five_seconds_and_others_are_not() {
    let users = Users::default();
    let signer = Signer::generate().unwrap();
    users.has(&[signer.public()]);
    let replica = users.spawn().await;
    let behind = Behind::over(mesh_of([("user-service", vec![replica.address])])).await;
    let of = |name| {
        let id = CustomerId::parse(name).unwrap();
        signer.sign(&Claims::new(id, [Role::Customer], Claims::MAX_LIFETIME / 4))
    };
    let (ada, bob) = (of("ada"), of("bob"));
    behind.with_token(METHOD, &ada).await.unwrap();
    users.revokes("ada", i64::MAX);
    let revoked = Instant::now();
    let refusal = loop {
        match behind.with_token(METHOD, &ada).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(status) => break status,
        }
        assert!(revoked.elapsed() < Duration::from_secs(5), "it is still believed");
    };
    refused::<()>(NAME, Err(refusal), Code::Unauthenticated, "TOKEN_REVOKED");
    behind.with_token(METHOD, &bob).await.unwrap();
    // The list stays while user-service is down.
    replica.stop().await;
    refused(NAME, behind.with_token(METHOD, &ada).await, Code::Unauthenticated, "TOKEN_REVOKED");
}
