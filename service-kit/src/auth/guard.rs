//! The layer in front of a generated server.

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
    Auth, Caller, On,
    expiry::{self, Lasting, Term},
    refusal::Refusal,
    table::{self, Allowed},
    verified::Known,
    verifier::presented,
};
use crate::error::Fault;

/// A service behind [`Auth`]. A call passes when [the table](super::TABLE) lets
/// its caller make it, which is asked once, as the call begins; an answer that
/// goes on for longer than the caller's token is believed is cut off then.
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

type Answer<S, B> = Result<Response<Lasting<B>>, <S as Service<Request<Body>>>::Error>;
type Waiting<S, B> = Pin<Box<dyn Future<Output = Answer<S, B>> + Send>>;

impl<S, B> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
{
    type Response = Response<Lasting<B>>;
    type Error = S::Error;
    /// The call, its refusal, or what has to wait for keys first.
    type Future = Either<expiry::Call<S::Future>, Either<Ready<Answer<S, B>>, Waiting<S, B>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Some(on) = &self.auth.on else {
            request.extensions_mut().insert(Arc::new(Caller::Anyone));
            return Either::Left(expiry::Call::new(self.inner.call(request), None));
        };
        match on.admit(&request) {
            Admission::Passed(caller, term) => {
                request.extensions_mut().insert(caller);
                Either::Left(expiry::Call::new(self.inner.call(request), term))
            }
            Admission::Refused(fault) => Either::Right(Either::Left(ready(Ok(on.refuse(fault))))),
            Admission::Waits(allowed, refusal) => {
                let on = on.clone();
                // The one that is ready serves, its clone is for later.
                let later = self.inner.clone();
                let inner = mem::replace(&mut self.inner, later);
                Either::Right(Either::Right(Box::pin(wait(on, inner, request, allowed, refusal))))
            }
        }
    }
}

async fn wait<S, B>(
    on: Arc<On>,
    mut inner: S,
    request: Request<Body>,
    allowed: Allowed,
    refusal: Refusal,
) -> Answer<S, B>
where
    S: Service<Request<Body>, Response = Response<B>>,
{
    let (mut head, body) = request.into_parts();
    match on.admit_later(&head, allowed, refusal).await {
        Ok(known) => {
            let term = on.term(&known);
            head.extensions.insert(known.caller);
            expiry::Call::new(inner.call(Request::from_parts(head, body)), Some(term)).await
        }
        Err(fault) => Ok(on.refuse(fault)),
    }
}

enum Admission {
    /// Also for how long the caller is believed, where they were asked.
    Passed(Arc<Caller>, Option<Term>),
    Refused(Fault),
    /// Keys are missing that may come.
    Waits(Allowed, Refusal),
}

impl On {
    /// Whether a request passes, as far as can be told without waiting.
    fn admit(&self, request: &Request<Body>) -> Admission {
        let path = request.uri().path();
        let Some(allowed) = table::allowed(path) else {
            let words = "no rule says who may call this method, so nobody may";
            let fault = Fault::new(Code::PermissionDenied, "METHOD_UNKNOWN", words);
            return Admission::Refused(fault.with("method", shown(path)));
        };
        if allowed.is_public() {
            return Admission::Passed(self.nobody.clone(), None);
        }
        let checked = presented(request.headers()).and_then(|token| self.verifier.check(token));
        match checked {
            Ok(known) if allowed.to(&known.caller) => {
                let term = self.term(&known);
                Admission::Passed(known.caller, Some(term))
            }
            Ok(_) => Admission::Refused(missing_role(path, allowed)),
            Err(refusal @ (Refusal::NoKeys | Refusal::UnknownKey)) => Admission::Waits(allowed, refusal),
            Err(refusal) => Admission::Refused(refusal.fault()),
        }
    }

    async fn admit_later(&self, head: &Parts, allowed: Allowed, refusal: Refusal) -> Result<Known, Fault> {
        let token = presented(&head.headers).map_err(Refusal::fault)?;
        let known = self.verifier.check_again(token, refusal).await.map_err(Refusal::fault)?;
        if allowed.to(&known.caller) { Ok(known) } else { Err(missing_role(head.uri.path(), allowed)) }
    }

    fn term(&self, known: &Known) -> Term {
        Term::new(known.clone(), self.verifier.users().revoked().clone(), self.service)
    }

    fn refuse<B: Default>(&self, fault: Fault) -> Response<B> {
        fault.into_status(self.service).into_http()
    }
}

fn missing_role(path: &str, allowed: Allowed) -> Fault {
    let fault = Fault::new(Code::PermissionDenied, "ROLE_MISSING", format!("this is for {allowed} to call"));
    fault.with("method", shown(path))
}

/// The method as a status tells it; what is too long to be one is cut.
fn shown(path: &str) -> &str {
    let method = path.trim_start_matches('/');
    method.get(..128).unwrap_or(method)
}
