//! user-service, in this process.

use std::{fmt::Debug, slice};

use mesh_proto::shop::user::v1::{
    DeleteUserRequest, GetJwksRequest, GetUserRequest, Jwk, LoginRequest, RefreshTokenRequest,
    RegisterRequest, Tokens, UpdateUserRequest, User, user_service_client::UserServiceClient,
};
use prost_types::FieldMask;
use registry_client::Channel;
use service_kit::testing::{self, Replica, TestDatabase, mesh_to};
use tonic::{Code, Status};
use tonic_types::ErrorDetails;
use user_service::{AdminOptions, NAME, UserService};

pub(crate) const EMAIL: &str = "ada@example.com";
pub(crate) const PASSWORD: &str = "correct horse battery";

/// user-service with a first admin.
pub(crate) fn with_admin(email: &str, password: &str) -> UserService {
    let (email, password) = (Some(email.to_owned()), Some(password.into()));
    UserService {
        admin: AdminOptions { email, password, ..AdminOptions::default() },
        ..UserService::default()
    }
}

/// Replicas without authentication.
pub(crate) struct TestApp {
    users: Vec<UserServiceClient<Channel>>,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) database: TestDatabase,
}

impl TestApp {
    /// One replica.
    pub(crate) async fn spawn(database: TestDatabase) -> Self {
        Self::with_replicas(database, 1).await
    }

    /// Several replicas on one database.
    pub(crate) async fn with_replicas(database: TestDatabase, number: usize) -> Self {
        let mut app = Self { users: Vec::new(), replicas: Vec::new(), database };
        for _ in 0..number {
            let replica = Replica::of::<UserService>(mesh_to([]), &app.database).await;
            app.users.push(UserServiceClient::new(mesh_to([replica.address]).channel(NAME)));
            app.replicas.push(replica);
        }
        app
    }

    /// The same database under another replica.
    pub(crate) async fn restart(self) -> Self {
        for replica in self.replicas {
            replica.stop().await;
        }
        Self::spawn(self.database).await
    }

    /// A client of one of the replicas.
    pub(crate) fn replica(&self, number: usize) -> UserServiceClient<Channel> {
        self.users[number].clone()
    }

    pub(crate) async fn register(&self, email: &str, password: &str) -> Result<User, Status> {
        Ok(self.replica(0).register(registration(email, password)).await?.into_inner())
    }

    /// An account with the usual address and password.
    pub(crate) async fn ada(&self) -> User {
        self.register(EMAIL, PASSWORD).await.unwrap()
    }

    pub(crate) async fn login(&self, email: &str, password: &str) -> Result<Tokens, Status> {
        Ok(self.replica(0).login(login(email, password)).await?.into_inner())
    }

    pub(crate) async fn refresh(&self, refresh_token: &str) -> Result<Tokens, Status> {
        let request = RefreshTokenRequest { refresh_token: refresh_token.into() };
        Ok(self.replica(0).refresh_token(request).await?.into_inner())
    }

    pub(crate) async fn get(&self, user_id: &str) -> Result<User, Status> {
        let request = GetUserRequest { user_id: user_id.into() };
        Ok(self.replica(0).get_user(request).await?.into_inner())
    }

    pub(crate) async fn update(&self, request: UpdateUserRequest) -> Result<User, Status> {
        Ok(self.replica(0).update_user(request).await?.into_inner())
    }

    pub(crate) async fn delete(&self, user_id: &str) -> Result<(), Status> {
        let request = DeleteUserRequest { user_id: user_id.into() };
        self.replica(0).delete_user(request).await?;
        Ok(())
    }

    pub(crate) async fn jwks(&self, replica: usize) -> Vec<Jwk> {
        self.replica(replica).get_jwks(GetJwksRequest {}).await.unwrap().into_inner().keys
    }
}

pub(crate) fn registration(email: &str, password: &str) -> RegisterRequest {
    RegisterRequest { email: email.into(), password: password.into(), display_name: "Ada L.".into() }
}

pub(crate) fn login(email: &str, password: &str) -> LoginRequest {
    LoginRequest { email: email.into(), password: password.into() }
}

/// A change of these fields of `user`.
pub(crate) fn update(user: &User, paths: &[&str]) -> UpdateUserRequest {
    UpdateUserRequest {
        user: Some(user.clone()),
        update_mask: Some(FieldMask { paths: paths.iter().map(|&path| path.into()).collect() }),
        ..UpdateUserRequest::default()
    }
}

#[track_caller]
pub(crate) fn refused<T: Debug>(result: Result<T, Status>, code: Code, reason: &str) -> ErrorDetails {
    testing::refused(NAME, result, code, reason)
}

#[track_caller]
pub(crate) fn refused_field<T: Debug>(result: Result<T, Status>, field: &str) {
    testing::refused_fields(NAME, result, slice::from_ref(&field));
}
