//! The errors of tokens.

use tonic::Code;

use crate::error::Fault;

/// The reason why a call is not authenticated. Its text never shows anything of
/// the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenError {
    #[error(
        "the call carries no token; send `authorization: Bearer TOKEN` with the access token of UserService/Login"
    )]
    Missing,
    #[error("the token has expired; get a new one with UserService/RefreshToken or UserService/Login")]
    Expired,
    #[error("the token was revoked, because its account was deleted or has lost a role; get a new one")]
    Revoked,
    #[error("the call carries more than one `authorization`; send one")]
    Several,
    #[error("the `authorization` is not `Bearer TOKEN`")]
    Scheme,
    #[error("the token is longer than 8 KiB")]
    TooLong,
    #[error("the token is not a well-formed JWT: three parts in base64url without padding")]
    Malformed,
    #[error("the token's header must have `typ` at+jwt, `alg` EdDSA and `kid`, once, and nothing else")]
    Header,
    #[error("the token is signed with a key that the shop does not use, or no longer uses")]
    UnknownKey,
    #[error("the token's signature is invalid")]
    Signature,
    #[error(
        "the token must have `iss`, `aud`, `sub`, `roles`, `iat`, `nbf`, `exp` and `jti`, each once and well-formed"
    )]
    Claims,
    #[error("the token was signed by an issuer that may not issue it")]
    Issuer,
    #[error("the token was issued for another audience")]
    Audience,
    #[error("the token is not valid yet; check the clocks of both machines")]
    NotYet,
    #[error("the token is valid for more than an hour")]
    TooLongLived,
    #[error("the token's `sub` is invalid")]
    Subject,
    #[error("the token's `roles` are empty or unknown")]
    Roles,
    /// The token may be valid.
    #[error(
        "tokens cannot be verified right now, because the keys of user-service could not be fetched; try again"
    )]
    NoKeys,
}

impl TokenError {
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
