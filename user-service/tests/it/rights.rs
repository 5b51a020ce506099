//! Rights that end when they end: what changes accounts asks the table, not the
//! token.

use mesh_proto::shop::user::v1::{
    DeleteUserRequest, GetUserRequest, LoginRequest, Role, UpdateUserRequest, User,
    user_service_client::UserServiceClient,
};
use secrecy::SecretString;
use service_kit::{
    auth::{self, Outgoing, Roles},
    config::FirstAdmin,
    database::Database,
    events::Outbox,
    on_both_databases,
    service::{self, Base, Service},
    testing::{Callers, Replica, TestDatabase, mesh_to},
    timestamp::Timestamp,
};
use tonic::Code;
use user_service::{
    Error, NAME, SUBSCRIBERS, UserService,
    domain::UserId,
    store::{Change, Store},
};

use crate::app::{EMAIL, PASSWORD, refused, registration, update};

const ADMIN: &str = "root@example.com";
const BOB: &str = "bob@example.com";

/// One replica that asks who calls, with a first admin.
struct Shop {
    replica: Replica,
    database: TestDatabase,
}

type Client = UserServiceClient<Outgoing>;

impl Shop {
    async fn spawn(database: TestDatabase) -> Self {
        let open = Database::open(database.url(), &UserService::MIGRATIONS).await.unwrap();
        let admin = FirstAdmin { email: ADMIN.to_owned(), password: SecretString::from(PASSWORD) };
        let auth = Callers::new().auth(NAME);
        let base = Base { admin: Some(admin), auth, ..Base::open(mesh_to([]), open) };
        let serve = |listener, shutdown| service::serve::<UserService>(base, listener, shutdown);
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
        UserServiceClient::new(Outgoing::bearing(channel, &token).unwrap())
    }
}

fn roles_of(user: &User, roles: &[Role]) -> UpdateUserRequest {
    let roles = roles.iter().map(|&role| role.into()).collect();
    update(&User { roles, etag: String::new(), ..user.clone() }, &["roles"])
}

async fn who_is_no_admin_any_more_makes_none(database: TestDatabase) {
    let shop = Shop::spawn(database).await;
    let (ada, bob) = (shop.register(EMAIL).await, shop.register(BOB).await);
    let mut root = shop.log_in(ADMIN).await;
    root.update_user(roles_of(&ada, &[Role::Admin])).await.unwrap();
    let mut demoted = shop.log_in(EMAIL).await;
    demoted.update_user(roles_of(&bob, &[Role::Staff])).await.unwrap();
    root.update_user(roles_of(&ada, &[Role::Customer])).await.unwrap();

    let answer = demoted.update_user(roles_of(&ada, &[Role::Admin])).await;
    refused(answer, Code::PermissionDenied, "ROLE_MISSING");
    let answer = demoted.update_user(roles_of(&bob, &[Role::Admin])).await;
    refused(answer, Code::PermissionDenied, "NOT_OWNER");
    let mut password = update(&User { etag: String::new(), ..bob.clone() }, &["password"]);
    password.password = "another long password".into();
    refused(demoted.update_user(password).await, Code::PermissionDenied, "NOT_OWNER");
    let gone = DeleteUserRequest { user_id: bob.user_id.clone() };
    refused(demoted.delete_user(gone).await, Code::PermissionDenied, "NOT_OWNER");
    let get = GetUserRequest { user_id: bob.user_id.clone() };
    refused(demoted.get_user(get.clone()).await, Code::PermissionDenied, "NOT_OWNER");
    let now = root.get_user(get).await.unwrap().into_inner();
    assert_eq!(now.roles, [i32::from(Role::Staff)]);
}

async fn the_transaction_itself_asks_what_the_account_may_do(database: TestDatabase) {
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
    let why = store.delete(id(&bob), Some(UserId::new()), Timestamp::now()).await;
    assert!(matches!(why, Err(Error::Refused(_))), "{why:?}");
    store.delete(id(&bob), Some(id(&bob)), Timestamp::now()).await.unwrap();
}

on_both_databases!(who_is_no_admin_any_more_makes_none, the_transaction_itself_asks_what_the_account_may_do);
