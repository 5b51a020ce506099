//! Lost rights end at once: every change of an account reads the roles from the
//! table, not from the token.

use std::{fmt::Debug, time::Duration};

use mesh_proto::shop::user::v1::{
    DeleteUserRequest, GetJwksRequest, GetUserRequest, LoginRequest, Role, UpdateUserRequest, User,
    user_service_client::UserServiceClient, user_service_server::UserService as _,
};
use secrecy::SecretString;
use service_kit::{
    auth::{self, Auth, Outgoing, Roles, digest_of},
    database::Database,
    events::Outbox,
    on_both_databases,
    service::{self, Service, ServiceContext},
    testing::{Callers, Replica, TestDatabase, mesh_to},
    timestamp::Timestamp,
};
use tonic::{Code, Request, Status};
use user_service::{
    Clock, Error, NAME, SUBSCRIBERS, UserService, Users,
    domain::UserId,
    hasher::Hasher,
    keys::{KeySchedule, Keyring},
    store::{Change, Store},
};

use crate::app::{EMAIL, PASSWORD, refused, registration, update, with_admin};

const ADMIN: &str = "root@example.com";
const BOB: &str = "bob@example.com";

/// One replica with authentication and a first admin.
struct Shop {
    replica: Replica,
    database: TestDatabase,
}

type Client = UserServiceClient<Outgoing>;

impl Shop {
    async fn spawn(database: TestDatabase) -> Self {
        let open = Database::open(database.url(), &UserService::MIGRATIONS).await.unwrap();
        let auth = Callers::new().auth(NAME);
        let context = ServiceContext { auth, ..ServiceContext::open(mesh_to([]), open) };
        let serve =
            |listener, shutdown| service::serve(with_admin(ADMIN, PASSWORD), context, listener, shutdown);
        Self { replica: Replica::start(serve).await, database }
    }

    async fn register(&self, email: &str) -> User {
        let mut users = UserServiceClient::new(mesh_to([self.replica.address]).channel(NAME));
        users.register(registration(email, PASSWORD)).await.unwrap().into_inner()
    }

    /// Somebody who has logged in now.
    async fn log_in(&self, email: &str) -> Client {
        let channel = mesh_to([self.replica.address]).channel(NAME);
        let request = LoginRequest { email: email.into(), password: PASSWORD.into() };
        let tokens = UserServiceClient::new(channel.clone()).login(request).await.unwrap().into_inner();
        let token = SecretString::from(tokens.access_token);
        UserServiceClient::new(Outgoing::with_token(channel, &token).unwrap())
    }
}

/// Refused for that reason, or because the whole token is revoked.
#[track_caller]
fn refused_to_demoted<T: Debug>(result: Result<T, Status>, reason: &str) {
    match result {
        Err(status) if status.code() == Code::Unauthenticated => {
            refused::<()>(Err(status), Code::Unauthenticated, "TOKEN_REVOKED");
        }
        result => drop(refused(result, Code::PermissionDenied, reason)),
    }
}

fn roles_of(user: &User, roles: &[Role]) -> UpdateUserRequest {
    let roles = roles.iter().map(|&role| role.into()).collect();
    update(&User { roles, etag: String::new(), ..user.clone() }, &["roles"])
}

async fn a_former_admin_makes_no_admins(database: TestDatabase) {
    let shop = Shop::spawn(database).await;
    let (ada, bob) = (shop.register(EMAIL).await, shop.register(BOB).await);
    let mut root = shop.log_in(ADMIN).await;
    root.update_user(roles_of(&ada, &[Role::Admin])).await.unwrap();
    let mut demoted = shop.log_in(EMAIL).await;
    demoted.update_user(roles_of(&bob, &[Role::Staff])).await.unwrap();
    root.update_user(roles_of(&ada, &[Role::Customer])).await.unwrap();

    refused_to_demoted(demoted.update_user(roles_of(&ada, &[Role::Admin])).await, "ROLE_MISSING");
    refused_to_demoted(demoted.update_user(roles_of(&bob, &[Role::Admin])).await, "NOT_OWNER");
    let mut password = update(&User { etag: String::new(), ..bob.clone() }, &["password"]);
    password.password = "another long password".into();
    refused_to_demoted(demoted.update_user(password).await, "NOT_OWNER");
    let gone = DeleteUserRequest { user_id: bob.user_id.clone() };
    refused_to_demoted(demoted.delete_user(gone).await, "NOT_OWNER");
    let get = GetUserRequest { user_id: bob.user_id.clone() };
    refused_to_demoted(demoted.get_user(get.clone()).await, "NOT_OWNER");
    let now = root.get_user(get).await.unwrap().into_inner();
    assert_eq!(now.roles, [i32::from(Role::Staff)]);
}

async fn deleted_and_demoted_accounts_are_listed_until_their_tokens_expire(database: TestDatabase) {
    let open = Database::open(database.url(), &UserService::MIGRATIONS).await.unwrap();
    let (store, clock) = (Store::new(open, Outbox::new(NAME, SUBSCRIBERS)), Clock::system());
    let keys =
        Keyring::open(store.clone(), clock.clone(), KeySchedule::default(), Auth::off()).await.unwrap();
    let users = Users::new(store.clone(), Hasher::new(), keys, clock.clone());
    let listed =
        async || users.get_jwks(Request::new(GetJwksRequest {})).await.unwrap().into_inner().revocations;
    let account = async |email| {
        let answer = users.register(Request::new(registration(email, PASSWORD))).await;
        UserId::parse(&answer.unwrap().into_inner().user_id).unwrap()
    };
    let (ada, bob) = (account(EMAIL).await, account(BOB).await);
    let second = || clock.now().micros() / 1_000_000;
    let give = async |role| {
        let change = Change { roles: Some(Roles::from([role])), ..Change::default() };
        store.update(ada, None, None, &change, clock.now()).await.unwrap();
    };
    // The rights of every caller cannot be lost, and a gain is no loss.
    give(auth::Role::Staff).await;
    give(auth::Role::Admin).await;
    assert_eq!(listed().await, []);
    let before = second();
    give(auth::Role::Staff).await;
    let list = listed().await;
    assert_eq!((list.len(), &list[0].subject), (1, &digest_of(&ada.to_string())));
    assert!((before + 1..=second() + 1).contains(&list[0].not_before), "{list:?}");

    clock.advance(Duration::from_secs(60));
    store.delete(bob, None, clock.now()).await.unwrap();
    let list = listed().await;
    assert_eq!((list.len(), &list[0].subject), (2, &digest_of(&bob.to_string())));
    assert!(list[0].not_before >= second() + 3_599, "also what a clock that is ahead has issued");
    // Nothing holds for longer than 15 minutes; clocks differ.
    clock.advance(Duration::from_secs(20 * 60));
    assert_eq!(listed().await, []);
    assert_eq!(store.delete_old_revocations(clock.now()).await.unwrap(), 0);
    clock.advance(Duration::from_secs(2 * 3_600));
    assert_eq!(store.delete_old_revocations(clock.now()).await.unwrap(), 2);
}

async fn the_transaction_checks_the_rights_of_the_account(database: TestDatabase) {
    let shop = Shop::spawn(database).await;
    let (ada, bob) = (shop.register(EMAIL).await, shop.register(BOB).await);
    let id = |user: &User| UserId::parse(&user.user_id).unwrap();
    let open = Database::open(shop.database.url(), &UserService::MIGRATIONS).await.unwrap();
    let store = Store::new(open, Outbox::new(NAME, SUBSCRIBERS));
    // Both orders of the ids, and the own account.
    for (by, of) in [(&ada, &bob), (&bob, &ada), (&ada, &ada)] {
        let roles = Some(Roles::from([auth::Role::Admin]));
        let change = Change { by: Some(id(by)), roles, ..Change::default() };
        let why = store.update(id(of), None, None, &change, Timestamp::now()).await;
        assert!(matches!(why, Err(Error::Refused(_))), "{why:?}");
    }
    let why = store.delete(id(&bob), Some(id(&ada)), Timestamp::now()).await;
    assert!(matches!(why, Err(Error::Refused(_))), "{why:?}");
    let why = store.delete(id(&bob), Some(UserId::new(Timestamp::now())), Timestamp::now()).await;
    assert!(matches!(why, Err(Error::Refused(_))), "{why:?}");
    store.delete(id(&bob), Some(id(&bob)), Timestamp::now()).await.unwrap();
}

on_both_databases!(
    a_former_admin_makes_no_admins,
    deleted_and_demoted_accounts_are_listed_until_their_tokens_expire,
    the_transaction_checks_the_rights_of_the_account,
);
