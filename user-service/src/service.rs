//! The handlers of the gRPC service.

use mesh_proto::shop::user::v1::{
    self as wire, DeleteUserRequest, GetJwksRequest, GetUserRequest, Jwks, ListNotificationsRequest,
    ListNotificationsResponse, LoginRequest, RefreshTokenRequest, RegisterRequest, Tokens, UpdateUserRequest,
    user_service_server::UserService,
};
use prost::Message;
use service_kit::{
    auth::Caller,
    error::{Fields, invalid},
    page::Page,
};
use tonic::{Request, Response, Status};

use crate::{
    Error,
    accounts::Accounts,
    clock::Clock,
    hasher::Hasher,
    keys::Keyring,
    login::Logins,
    request,
    store::{Store, StoredNotification},
};

/// Accounts as a gRPC service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Users {
    accounts: Accounts,
    logins: Logins,
}

impl Users {
    /// The accounts of `store`, with passwords hashed by `hasher` and tokens signed with
    /// `keys`.
    #[must_use]
    pub fn new(store: Store, hasher: Hasher, keys: Keyring, clock: Clock) -> Self {
        let accounts = Accounts { store, hasher, clock };
        Self { logins: Logins { accounts: accounts.clone(), keys }, accounts }
    }

    async fn list_notifications(
        &self,
        caller: &Caller,
        request: ListNotificationsRequest,
    ) -> Result<ListNotificationsResponse, Error> {
        let mut fields = Fields::default();
        let customer = request::customer_id(&mut fields, &request.customer_id);
        let scope = format!("notifications of {}", request.customer_id);
        let page = Page::take(&mut fields, &scope, request.page_size, &request.page_token);
        let (Some(customer), Some(page)) = (customer, page) else { return Err(fields.fault().into()) };
        caller.may_act_for(&customer)?;
        let fetch = async |after: Option<String>, limit| {
            let after = after.map_or(Ok(0), |position| position.parse());
            let after = after.map_err(|_| invalid("page_token", "must be one that this service returned"))?;
            Ok::<_, Error>(self.accounts.store.notifications(&customer, after, limit).await?)
        };
        let weight = |stored: &StoredNotification| stored.notification.encoded_len();
        let (stored, next_page_token) = page.fill(fetch, |stored| &stored.position, weight).await?;
        let notifications = stored.into_iter().map(|stored| stored.notification).collect();
        Ok(ListNotificationsResponse { notifications, next_page_token })
    }
}

#[tonic::async_trait]
impl UserService for Users {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<wire::User>, Status> {
        let from = request.into_inner().try_into().map_err(Error::from)?;
        Ok(Response::new(self.accounts.register(from).await?.into()))
    }

    async fn login(&self, request: Request<LoginRequest>) -> Result<Response<Tokens>, Status> {
        let peer = request.remote_addr().map(|address| address.ip());
        let from = request.into_inner().try_into().map_err(Error::from)?;
        Ok(Response::new(self.logins.log_in(&from, peer).await?))
    }

    async fn refresh_token(&self, request: Request<RefreshTokenRequest>) -> Result<Response<Tokens>, Status> {
        Ok(Response::new(self.logins.refresh(&request.get_ref().refresh_token).await?))
    }

    async fn get_user(&self, request: Request<GetUserRequest>) -> Result<Response<wire::User>, Status> {
        let caller = Caller::of(&request).map_err(Error::from)?;
        let id = request::user_id(&request.get_ref().user_id).map_err(Error::from)?;
        Ok(Response::new(self.accounts.get(caller, id).await?.into()))
    }

    async fn update_user(&self, request: Request<UpdateUserRequest>) -> Result<Response<wire::User>, Status> {
        let caller = Caller::of(&request).map_err(Error::from)?.clone();
        let update = request.into_inner().try_into().map_err(Error::from)?;
        Ok(Response::new(self.accounts.update(&caller, update).await?.into()))
    }

    async fn delete_user(&self, request: Request<DeleteUserRequest>) -> Result<Response<()>, Status> {
        let caller = Caller::of(&request).map_err(Error::from)?;
        let id = request::user_id(&request.get_ref().user_id).map_err(Error::from)?;
        self.accounts.delete(caller, id).await?;
        Ok(Response::new(()))
    }

    async fn get_jwks(&self, _: Request<GetJwksRequest>) -> Result<Response<Jwks>, Status> {
        let keyring = &self.logins.keys;
        let (keys, revocations) = (keyring.published().await?, keyring.revocations().await?);
        Ok(Response::new(Jwks { keys, revocations }))
    }

    async fn list_notifications(
        &self,
        request: Request<ListNotificationsRequest>,
    ) -> Result<Response<ListNotificationsResponse>, Status> {
        let caller = Caller::of(&request).map_err(Error::from)?.clone();
        Ok(Response::new(self.list_notifications(&caller, request.into_inner()).await?))
    }
}
