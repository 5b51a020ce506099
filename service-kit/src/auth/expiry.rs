//! The end of a response when its caller's token expires or is revoked.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tonic::codegen::http::{HeaderMap, Response};

use super::{revoked::RevocationList, token_cache::VerifiedToken, token_error::TokenError};

/// The lifetime of a caller's token.
#[derive(Debug)]
pub(super) struct TokenLifetime {
    token: VerifiedToken,
    revoked: RevocationList,
    /// The service that is called.
    service: &'static str,
    /// The timer, created when the response first has to wait for data. A response
    /// of one message never does.
    expiry: Option<Pin<Box<Sleep>>>,
}

impl TokenLifetime {
    pub(super) fn new(token: VerifiedToken, revoked: RevocationList, service: &'static str) -> Self {
        Self { token, revoked, service, expiry: None }
    }

    fn expiry(&mut self) -> &mut Pin<Box<Sleep>> {
        self.expiry.get_or_insert_with(|| {
            let end = UNIX_EPOCH + Duration::from_secs(self.token.until.saturating_add(1));
            Box::pin(sleep(end.duration_since(SystemTime::now()).unwrap_or_default()))
        })
    }

    /// The reason why the token is no longer valid, if so. Nothing is checked
    /// before the response first waits: data that is ready is sent.
    fn poll_error(&mut self, cx: &mut Context<'_>) -> Option<TokenError> {
        let expiry = self.expiry.as_mut()?;
        if expiry.as_mut().poll(cx).is_ready() {
            return Some(TokenError::Expired);
        }
        self.revoked.contains(&self.token.caller, self.token.issued).then_some(TokenError::Revoked)
    }

    /// The trailers of a response that ends early.
    fn trailers(&self, why: TokenError) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        // Fails only for invalid metadata, and this status has none.
        let _ = why.fault().into_status(self.service).add_header(&mut trailers);
        trailers
    }
}

pin_project! {
    /// The future of a call, until its response begins.
    #[derive(Debug)]
    pub struct GuardedCall<F> {
        #[pin]
        call: F,
        lifetime: Option<TokenLifetime>,
    }
}

impl<F> GuardedCall<F> {
    /// Wraps `call`; without a `lifetime` its response never ends early.
    pub(super) fn new(call: F, lifetime: Option<TokenLifetime>) -> Self {
        Self { call, lifetime }
    }
}

impl<F, B, E> Future for GuardedCall<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ExpiringBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.call.poll(cx))?;
        let lifetime = this.lifetime.take();
        Poll::Ready(Ok(response.map(|body| ExpiringBody { body: Some(body), lifetime })))
    }
}

pin_project! {
    /// A response body that ends with UNAUTHENTICATED when its caller's token
    /// expires or is revoked.
    #[derive(Debug)]
    pub struct ExpiringBody<B> {
        #[pin]
        body: Option<B>,
        lifetime: Option<TokenLifetime>,
    }
}

impl<B> Default for ExpiringBody<B> {
    /// An empty body.
    fn default() -> Self {
        Self { body: None, lifetime: None }
    }
}

impl<B: Body> Body for ExpiringBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let Some(body) = this.body.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let Some(lifetime) = this.lifetime else { return body.poll_frame(cx) };
        // Before the next frame, which the caller may no longer see.
        let why = match lifetime.poll_error(cx) {
            Some(why) => why,
            None => {
                let polled = body.poll_frame(cx);
                if polled.is_ready() {
                    return polled;
                }
                ready!(lifetime.expiry().as_mut().poll(cx));
                TokenError::Expired
            }
        };
        let trailers = lifetime.trailers(why);
        this.body.set(None);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use futures_util::{FutureExt, future::poll_fn};
    use tokio::{sync::mpsc, time::advance};

    use std::sync::Arc;

    use mesh_proto::shop::user::v1::Revocation;

    use super::*;
    use crate::{
        auth::{Caller, Role, digest_of, token},
        value::CustomerId,
    };

    /// A body of the messages in a channel.
    struct Stream(mpsc::Receiver<&'static str>);

    impl Body for Stream {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let text = ready!(self.0.poll_recv(cx));
            Poll::Ready(text.map(|text| Ok(Frame::data(text.into()))))
        }
    }

    async fn body(
        lifetime: Option<TokenLifetime>,
    ) -> (mpsc::Sender<&'static str>, Pin<Box<ExpiringBody<Stream>>>) {
        let (sender, receiver) = mpsc::channel(4);
        let call = async { Ok::<_, Infallible>(Response::new(Stream(receiver))) };
        (sender, Box::pin(GuardedCall::new(call, lifetime).await.unwrap().into_body()))
    }

    /// The next data, or the status that ended the body.
    fn next(body: &mut Pin<Box<ExpiringBody<Stream>>>) -> Option<Option<String>> {
        let frame = poll_fn(|cx| body.as_mut().poll_frame(cx)).now_or_never()?;
        let text = |frame: Frame<Bytes>| match frame.into_data() {
            Ok(data) => String::from_utf8(data.into()).unwrap(),
            Err(frame) => frame.into_trailers().unwrap()["grpc-status"].to_str().unwrap().to_owned(),
        };
        Some(frame.map(|frame| text(frame.unwrap())))
    }

    fn lifetime(left: u64) -> Option<TokenLifetime> {
        Some(TokenLifetime::new(known(left), RevocationList::default(), "test"))
    }

    fn known(left: u64) -> VerifiedToken {
        let ada = Caller::User { id: CustomerId::parse("ada").unwrap(), roles: [Role::Customer].into() };
        VerifiedToken { caller: Arc::new(ada), issued: token::now(), until: token::now() + left }
    }

    fn some(text: &str) -> Option<Option<String>> {
        Some(Some(text.to_owned()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_when_its_callers_token_expires() {
        let (sender, mut body) = body(lifetime(900)).await;
        sender.try_send("a").unwrap();
        assert_eq!(next(&mut body), some("a"));
        assert_eq!(next(&mut body), None);
        advance(Duration::from_secs(899)).await;
        sender.try_send("b").unwrap();
        assert_eq!(next(&mut body), some("b"));
        assert_eq!(next(&mut body), None);
        advance(Duration::from_secs(2)).await;
        sender.try_send("a secret").unwrap();
        assert_eq!(next(&mut body), some("16"));
        assert_eq!(next(&mut body), Some(None));
        assert!(body.is_end_stream() && sender.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_of_a_caller_whose_token_is_revoked_sends_nothing_more() {
        let (revoked, ada) = (RevocationList::default(), known(900));
        let not_before = i64::try_from(ada.issued + 1).unwrap();
        let (sender, mut body) = body(Some(TokenLifetime::new(ada, revoked.clone(), "test"))).await;
        assert_eq!(next(&mut body), None);
        sender.try_send("a").unwrap();
        assert_eq!(next(&mut body), some("a"));
        revoked.replace(&[Revocation { subject: digest_of("ada"), not_before }]);
        sender.try_send("a secret").unwrap();
        assert_eq!(next(&mut body), some("16"));
        assert!(body.is_end_stream() && sender.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_is_ready_is_sent_however_late() {
        let (sender, mut body) = body(lifetime(0)).await;
        advance(Duration::from_secs(60)).await;
        sender.try_send("a").unwrap();
        drop(sender);
        assert_eq!(next(&mut body), some("a"));
        assert_eq!(next(&mut body), Some(None));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_lifetime_the_body_does_not_end() {
        let (sender, mut body) = body(None).await;
        assert_eq!(next(&mut body), None);
        advance(Duration::from_secs(100_000)).await;
        assert_eq!(next(&mut body), None);
        sender.try_send("a").unwrap();
        assert_eq!(next(&mut body), some("a"));
    }
}
