//! What can go wrong with an account.

use std::time::Duration;

use service_kit::{
    database,
    error::{Fault, internal},
};
use tonic::{Code, Status};

use crate::{domain::UserId, hasher::HashError};

/// After which a refused hash is worth another try.
const HASH_AGAIN: Duration = Duration::from_secs(1);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is malformed, or the caller may not do this.
    #[error("the request is refused")]
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
    /// The account is not as the caller has seen it.
    #[error("the account has changed since; get it and try again")]
    Changed,
    /// The present password was not given, or is another.
    #[error("the present password must be given as current_password to change the own email or password")]
    CurrentPasswordWrong,
    /// No password could be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// No token could be made; says why.
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
                Fault::new(Code::ResourceExhausted, "TOO_MANY_LOGINS", words).retry_in(HASH_AGAIN)
            }
            Error::Hash(why @ HashError::Failed(_)) => internal(&why),
            Error::Token(why) => internal(&why),
            Error::Database(error) => error.fault(),
        };
        fault.into_status(crate::NAME)
    }
}
