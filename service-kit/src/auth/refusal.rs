//! Why a call does not pass.

use tonic::Code;

use crate::error::Fault;

/// Why who calls is not known. The words never repeat anything of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "the call carries no token; send `authorization: Bearer TOKEN` with one that UserService/Login gave"
    )]
    Missing,
    #[error("the token has expired; get a new one by UserService/RefreshToken or UserService/Login")]
    Expired,
    #[error("the token was revoked, as its account is gone or has lost a role; get a new one")]
    Revoked,
    #[error("the call carries more than one `authorization`; send one")]
    Several,
    #[error("the `authorization` is not `Bearer TOKEN`")]
    Scheme,
    #[error("the token is longer than 8 KiB")]
    TooLong,
    #[error("the token is not three parts in base64url without padding, each as it should be")]
    Malformed,
    #[error("the token's header must have `typ` at+jwt, `alg` EdDSA and `kid`, once, and nothing else")]
    Header,
    #[error("the token is signed with a key that is not, or no longer, one of the shop's")]
    UnknownKey,
    #[error("the token's signature does not fit")]
    Signature,
    #[error(
        "the token must have `iss`, `aud`, `sub`, `roles`, `iat`, `nbf`, `exp` and `jti`, each once and well-formed"
    )]
    Claims,
    #[error("the token was issued by somebody who may not issue it")]
    Issuer,
    #[error("the token was issued for another audience")]
    Audience,
    #[error("the token does not hold yet; is a clock wrong?")]
    NotYet,
    #[error("the token holds for more than an hour")]
    TooLongLived,
    #[error("the token's `sub` names nobody")]
    Subject,
    #[error("the token's `roles` are none, or not known")]
    Roles,
    /// Nothing is wrong with the token, as far as can be told.
    #[error("tokens cannot be verified right now, for user-service does not give its keys; try again")]
    NoKeys,
}

impl Refusal {
    pub(super) fn fault(self) -> Fault {
        let (code, reason) = match self {
            Self::Missing => (Code::Unauthenticated, "TOKEN_MISSING"),
            Self::Expired => (Code::Unauthenticated, "TOKEN_EXPIRED"),
            Self::Revoked => (Code::Unauthenticated, "TOKEN_REVOKED"),
            Self::NoKeys => (Code::Unavailable, "KEYS_UNAVAILABLE"),
            _ => (Code::Unauthenticated, "TOKEN_INVALID"),
        };
        Fault::new(code, reason, self.to_string())
    }
}
