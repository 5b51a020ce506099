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
    refusal::Refusal,
    table::{self, Allowed},
    verifier::presented,
};
use crate::error::Fault;

/// A service behind [`Auth`]. A call passes when [the table](super::TABLE) lets
/// its caller make it, which is asked once, as the call begins.
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

type Answer<S> = Result<<S as Service<Request<Body>>>::Response, <S as Service<Request<Body>>>::Error>;
type Waiting<S> = Pin<Box<dyn Future<Output = Answer<S>> + Send>>;

impl<S, B> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Default + Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    /// The call, its refusal, or what has to wait for keys first.
    type Future = Either<S::Future, Either<Ready<Answer<S>>, Waiting<S>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Some(on) = &self.auth.on else {
            request.extensions_mut().insert(Arc::new(Caller::Anyone));
            return Either::Left(self.inner.call(request));
        };
        match on.admit(&request) {
            Admission::Passed(caller) => {
                request.extensions_mut().insert(caller);
                Either::Left(self.inner.call(request))
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
) -> Answer<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    B: Default,
{
    let (mut head, body) = request.into_parts();
    match on.admit_later(&head, allowed, refusal).await {
        Ok(caller) => {
            head.extensions.insert(caller);
            inner.call(Request::from_parts(head, body)).await
        }
        Err(fault) => Ok(on.refuse(fault)),
    }
}

enum Admission {
    Passed(Arc<Caller>),
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
            return Admission::Passed(self.nobody.clone());
        }
        let checked = presented(request.headers()).and_then(|token| self.verifier.check(token));
        match checked {
            Ok(caller) if allowed.to(&caller) => Admission::Passed(caller),
            Ok(_) => Admission::Refused(missing_role(path, allowed)),
            Err(refusal @ (Refusal::NoKeys | Refusal::UnknownKey)) => Admission::Waits(allowed, refusal),
            Err(refusal) => Admission::Refused(refusal.fault()),
        }
    }

    async fn admit_later(
        &self,
        head: &Parts,
        allowed: Allowed,
        refusal: Refusal,
    ) -> Result<Arc<Caller>, Fault> {
        let token = presented(&head.headers).map_err(Refusal::fault)?;
        let caller = self.verifier.check_again(token, refusal).await.map_err(Refusal::fault)?;
        if allowed.to(&caller) { Ok(caller) } else { Err(missing_role(head.uri.path(), allowed)) }
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
