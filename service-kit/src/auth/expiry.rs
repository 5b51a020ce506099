//! What is still being answered when its caller's token expires.

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

use super::{refusal::Refusal, revoked::Revoked, verified::Known};

/// Until when a caller is believed.
#[derive(Debug)]
pub(super) struct Term {
    known: Known,
    revoked: Revoked,
    /// The service that believes them.
    service: &'static str,
    /// `None` until something has to be waited for, which in an answer of one
    /// message nothing has.
    over: Option<Pin<Box<Sleep>>>,
}

impl Term {
    pub(super) fn new(known: Known, revoked: Revoked, service: &'static str) -> Self {
        Self { known, revoked, service, over: None }
    }

    fn wait(&mut self) -> &mut Pin<Box<Sleep>> {
        self.over.get_or_insert_with(|| {
            let end = UNIX_EPOCH + Duration::from_secs(self.known.until.saturating_add(1));
            Box::pin(sleep(end.duration_since(SystemTime::now()).unwrap_or_default()))
        })
    }

    /// Why it is over, if it is. Nothing is asked before there was something to
    /// wait for: an answer that is there is sent.
    fn over(&mut self, cx: &mut Context<'_>) -> Option<Refusal> {
        let over = self.over.as_mut()?;
        if over.as_mut().poll(cx).is_ready() {
            return Some(Refusal::Expired);
        }
        self.revoked.has(&self.known.caller, self.known.issued).then_some(Refusal::Revoked)
    }

    /// What an answer ends with.
    fn trailers(&self, why: Refusal) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        // Fails only for metadata that is no header, and ours has none.
        let _ = why.fault().into_status(self.service).add_header(&mut trailers);
        trailers
    }
}

pin_project! {
    /// One call, until its answer begins.
    #[derive(Debug)]
    pub struct Call<F> {
        #[pin]
        call: F,
        term: Option<Term>,
    }
}

impl<F> Call<F> {
    /// `call`, of whom is believed for `term`; for ever where there is none.
    pub(super) fn new(call: F, term: Option<Term>) -> Self {
        Self { call, term }
    }
}

impl<F, B, E> Future for Call<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<Lasting<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.call.poll(cx))?;
        let term = this.term.take();
        Poll::Ready(Ok(answer.map(|body| Lasting { body: Some(body), term })))
    }
}

pin_project! {
    /// An answer's body. One that goes on for longer than its caller is believed
    /// ends with UNAUTHENTICATED, so that they show who they are again.
    #[derive(Debug)]
    pub struct Lasting<B> {
        #[pin]
        body: Option<B>,
        term: Option<Term>,
    }
}

impl<B> Default for Lasting<B> {
    /// Nothing, which is at its end.
    fn default() -> Self {
        Self { body: None, term: None }
    }
}

impl<B: Body> Body for Lasting<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let Some(body) = this.body.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let Some(term) = this.term else { return body.poll_frame(cx) };
        // Before what there is to send, for they may not see it any more.
        let why = match term.over(cx) {
            Some(why) => why,
            None => {
                let polled = body.poll_frame(cx);
                if polled.is_ready() {
                    return polled;
                }
                ready!(term.wait().as_mut().poll(cx));
                Refusal::Expired
            }
        };
        let trailers = term.trailers(why);
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

    /// Sends what it is given, and then waits for more.
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

    async fn lasting(term: Option<Term>) -> (mpsc::Sender<&'static str>, Pin<Box<Lasting<Stream>>>) {
        let (sender, receiver) = mpsc::channel(4);
        let call = async { Ok::<_, Infallible>(Response::new(Stream(receiver))) };
        (sender, Box::pin(Call::new(call, term).await.unwrap().into_body()))
    }

    /// What is there, or the reason that it ended with.
    fn next(body: &mut Pin<Box<Lasting<Stream>>>) -> Option<Option<String>> {
        let frame = poll_fn(|cx| body.as_mut().poll_frame(cx)).now_or_never()?;
        let text = |frame: Frame<Bytes>| match frame.into_data() {
            Ok(data) => String::from_utf8(data.into()).unwrap(),
            Err(frame) => frame.into_trailers().unwrap()["grpc-status"].to_str().unwrap().to_owned(),
        };
        Some(frame.map(|frame| text(frame.unwrap())))
    }

    fn term(left: u64) -> Option<Term> {
        Some(Term::new(known(left), Revoked::default(), "test"))
    }

    fn known(left: u64) -> Known {
        let ada = Caller::User { id: CustomerId::parse("ada").unwrap(), roles: [Role::Customer].into() };
        Known { caller: Arc::new(ada), issued: token::now(), until: token::now() + left }
    }

    fn some(text: &str) -> Option<Option<String>> {
        Some(Some(text.to_owned()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_when_its_caller_is_believed_no_longer() {
        let (sender, mut body) = lasting(term(900)).await;
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
    async fn a_stream_of_a_caller_whose_token_is_revoked_tells_nothing_more() {
        let (revoked, ada) = (Revoked::default(), known(900));
        let not_before = i64::try_from(ada.issued + 1).unwrap();
        let (sender, mut body) = lasting(Some(Term::new(ada, revoked.clone(), "test"))).await;
        assert_eq!(next(&mut body), None);
        sender.try_send("a").unwrap();
        assert_eq!(next(&mut body), some("a"));
        revoked.replace(&[Revocation { subject: digest_of("ada"), not_before }]);
        sender.try_send("a secret").unwrap();
        assert_eq!(next(&mut body), some("16"));
        assert!(body.is_end_stream() && sender.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_there_is_sent_however_late() {
        let (sender, mut body) = lasting(term(0)).await;
        advance(Duration::from_secs(60)).await;
        sender.try_send("a").unwrap();
        drop(sender);
        assert_eq!(next(&mut body), some("a"));
        assert_eq!(next(&mut body), Some(None));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_term_it_goes_on() {
        let (sender, mut body) = lasting(None).await;
        assert_eq!(next(&mut body), None);
        advance(Duration::from_secs(100_000)).await;
        assert_eq!(next(&mut body), None);
        sender.try_send("a").unwrap();
        assert_eq!(next(&mut body), some("a"));
    }
}
