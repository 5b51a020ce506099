//! The errors of accounts.

use std::time::Duration;

use service_kit::{
    database,
    error::{Fault, internal},
};
use tonic::{Code, Status};

use crate::{domain::UserId, hasher::HashError};

/// The delay before a retry of a rejected hash.
const HASH_RETRY_DELAY: Duration = Duration::from_secs(1);

/// The reason why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is malformed, or the caller may not do this.
    #[error("the request is rejected")]
    Refused(Fault),
    /// The address has an account.
    #[error("the email address has an account already")]
    EmailTaken,
    /// No account has this address and this password.
    #[error("no account has this email address and this password")]
    CredentialsWrong,
    /// Too many logins failed.
    #[error("too many attempts failed; try again in {} s", .0.as_secs().max(1))]
    TooManyAttempts(Duration),
    /// The refresh token is unknown, expired or used up.
    #[error("the refresh token is unknown, expired or used up; log in again")]
    RefreshTokenInvalid,
    /// There is no such account.
    #[error("there is no user {0}")]
    NotFound(UserId),
    /// The account has another version than the caller has seen.
    #[error("the account has changed since; get it and try again")]
    Changed,
    /// The current password is missing or wrong.
    #[error("current_password must be the current password, to change your own email or password")]
    CurrentPasswordWrong,
    /// No password could be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// No token could be issued, for this reason.
    #[error("{0}")]
    Token(String),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] database::Error),
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::Refused(fault)
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let words = error.to_string();
        let fault = match error {
            Error::Refused(fault) => fault,
            Error::EmailTaken => Fault::new(Code::AlreadyExists, "EMAIL_TAKEN", words),
            Error::CredentialsWrong => Fault::new(Code::Unauthenticated, "CREDENTIALS_WRONG", words),
            Error::TooManyAttempts(wait) => {
                Fault::new(Code::ResourceExhausted, "TOO_MANY_ATTEMPTS", words).retry_in(wait)
            }
            Error::RefreshTokenInvalid => Fault::new(Code::Unauthenticated, "REFRESH_TOKEN_INVALID", words),
            Error::NotFound(id) => Fault::new(Code::NotFound, "USER_NOT_FOUND", words).with("user_id", id),
            Error::Changed => Fault::new(Code::Aborted, "USER_CHANGED", words),
            Error::CurrentPasswordWrong => {
                Fault::new(Code::PermissionDenied, "CURRENT_PASSWORD_WRONG", words)
            }
            Error::Hash(HashError::Busy) => {
                let words = "too many passwords are being checked right now; try again";
                Fault::new(Code::ResourceExhausted, "TOO_MANY_LOGINS", words).retry_in(HASH_RETRY_DELAY)
            }
            Error::Hash(why @ HashError::Failed(_)) => internal(&why),
            Error::Token(why) => internal(&why),
            Error::Database(error) => error.fault(),
        };
        fault.into_status(crate::NAME)
    }
}
