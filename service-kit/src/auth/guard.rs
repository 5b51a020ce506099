//! The guard in front of a generated server.

use std::{
    future::{Future, Ready, ready},
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::Either;
use tonic::{
    Code,
    body::Body,
    codegen::{
        Service,
        http::{Request, Response, request::Parts},
    },
    server::NamedService,
};

use super::{
    Auth, Caller, EnabledAuth,
    expiry::{ExpiringBody, GuardedCall, TokenLifetime},
    table::{self, AccessRule},
    token_cache::VerifiedToken,
    token_error::TokenError,
    verifier::presented,
};
use crate::error::Fault;

/// A gRPC service behind [`Auth`]. A call passes when [the table](super::TABLE)
/// allows it for the caller, which is checked once, as the call begins. A
/// response that is still open when the caller's token expires ends then.
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    inner: S,
    auth: Auth,
}

impl<S> Guarded<S> {
    pub(super) fn new(inner: S, auth: Auth) -> Self {
        Self { inner, auth }
    }
}

impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}

type GuardedResult<S, B> = Result<Response<ExpiringBody<B>>, <S as Service<Request<Body>>>::Error>;
type DelayedCall<S, B> = Pin<Box<dyn Future<Output = GuardedResult<S, B>> + Send>>;

impl<S, B> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
{
    type Response = Response<ExpiringBody<B>>;
    type Error = S::Error;
    /// The call, its rejection, or a call that waits for keys first.
    type Future = Either<GuardedCall<S::Future>, Either<Ready<GuardedResult<S, B>>, DelayedCall<S, B>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Some(auth) = &self.auth.enabled else {
            request.extensions_mut().insert(Arc::new(Caller::Unrestricted));
            return Either::Left(GuardedCall::new(self.inner.call(request), None));
        };
        match auth.admit(&request) {
            Admission::Accepted(caller, lifetime) => {
                request.extensions_mut().insert(caller);
                Either::Left(GuardedCall::new(self.inner.call(request), lifetime))
            }
            Admission::Rejected(fault) => Either::Right(Either::Left(ready(Ok(auth.reject(fault))))),
            Admission::NeedsKeys(rule, error) => {
                let auth = auth.clone();
                // The instance that is ready serves this call, its clone the next.
                let next = self.inner.clone();
                let inner = mem::replace(&mut self.inner, next);
                Either::Right(Either::Right(Box::pin(call_with_keys(auth, inner, request, rule, error))))
            }
        }
    }
}

/// Waits for keys, and then calls or rejects.
async fn call_with_keys<S, B>(
    auth: Arc<EnabledAuth>,
    mut inner: S,
    request: Request<Body>,
    rule: AccessRule,
    error: TokenError,
) -> GuardedResult<S, B>
where
    S: Service<Request<Body>, Response = Response<B>>,
{
    let (mut head, body) = request.into_parts();
    match auth.admit_with_keys(&head, rule, error).await {
        Ok(token) => {
            let lifetime = auth.lifetime(&token);
            head.extensions.insert(token.caller);
            GuardedCall::new(inner.call(Request::from_parts(head, body)), Some(lifetime)).await
        }
        Err(fault) => Ok(auth.reject(fault)),
    }
}

enum Admission {
    /// With the lifetime of the caller's token, if the method needs one.
    Accepted(Arc<Caller>, Option<TokenLifetime>),
    Rejected(Fault),
    /// The key is missing, and may be fetched.
    NeedsKeys(AccessRule, TokenError),
}

impl EnabledAuth {
    /// Admits a request without waiting for keys.
    fn admit(&self, request: &Request<Body>) -> Admission {
        let path = request.uri().path();
        let Some(rule) = table::access_rule(path) else {
            let words = "the method has no access rule, so no caller may call it";
            let fault = Fault::new(Code::PermissionDenied, "METHOD_UNKNOWN", words);
            return Admission::Rejected(fault.with("method", shown(path)));
        };
        if rule.is_public() {
            return Admission::Accepted(self.anonymous.clone(), None);
        }
        let checked = presented(request.headers()).and_then(|token| self.verifier.check(token));
        match checked {
            Ok(token) if rule.allows(&token.caller) => {
                let lifetime = self.lifetime(&token);
                Admission::Accepted(token.caller, Some(lifetime))
            }
            Ok(_) => Admission::Rejected(missing_role(path, rule)),
            Err(error @ (TokenError::NoKeys | TokenError::UnknownKey)) => Admission::NeedsKeys(rule, error),
            Err(error) => Admission::Rejected(error.fault()),
        }
    }

    async fn admit_with_keys(
        &self,
        head: &Parts,
        rule: AccessRule,
        error: TokenError,
    ) -> Result<VerifiedToken, Fault> {
        let token = presented(&head.headers).map_err(TokenError::fault)?;
        let token = self.verifier.check_again(token, error).await.map_err(TokenError::fault)?;
        if rule.allows(&token.caller) { Ok(token) } else { Err(missing_role(head.uri.path(), rule)) }
    }

    fn lifetime(&self, token: &VerifiedToken) -> TokenLifetime {
        TokenLifetime::new(token.clone(), self.verifier.users().revoked().clone(), self.service)
    }

    fn reject<B: Default>(&self, fault: Fault) -> Response<B> {
        fault.into_status(self.service).into_http()
    }
}

fn missing_role(path: &str, rule: AccessRule) -> Fault {
    let words = format!("only {rule} may call this method");
    let fault = Fault::new(Code::PermissionDenied, "ROLE_MISSING", words);
    fault.with("method", shown(path))
}

/// The method for the status, shortened to 128 bytes.
fn shown(path: &str) -> &str {
    let method = path.trim_start_matches('/');
    method.get(..128).unwrap_or(method)
}
