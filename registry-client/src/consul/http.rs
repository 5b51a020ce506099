//! One request to an agent and its response, with the rules that hold for all
//! of them: bounded time, bounded bodies, no redirects, a token by header, and
//! an error that tells what helps.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioTimer},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

use super::{
    Error,
    connect::{Connector, Used},
    duration::GoDuration,
    endpoint::Endpoint,
    error::{TokenState, said},
    tls::Secure,
    token::Token,
    watch::cursor::{Cursor, Meta},
};

/// An agent without a leader answers register, check and maintenance only
/// after 7 to 19 s, and holds every other local read as long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A real agent closes an idle connection after 120 s.
const POOL_IDLE: Duration = Duration::from_secs(90);

/// What is asked of an agent.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    /// Begins with `/v1/`, every segment percent-encoded.
    pub(super) path: String,
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) body: Bytes,
    /// The ACL rights it takes, for the message of a refusal.
    pub(super) needs: String,
    /// True if its connection is closed behind it.
    pub(super) last_on_its_connection: bool,
}

impl Call {
    pub(super) fn new(method: Method, path: impl Into<String>, needs: impl Into<String>) -> Self {
        let (path, needs) = (path.into(), needs.into());
        Self { method, path, query: Vec::new(), body: Bytes::new(), needs, last_on_its_connection: false }
    }

    pub(super) fn get(path: impl Into<String>, needs: impl Into<String>) -> Self {
        Self::new(Method::GET, path, needs)
    }

    pub(super) fn put(path: impl Into<String>, needs: impl Into<String>) -> Self {
        Self::new(Method::PUT, path, needs)
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// The path with the datacenter and the filter that are asked for, for
    /// messages.
    fn described(&self) -> String {
        let mut text = self.path.clone();
        for (name, words) in [("dc", " in datacenter"), ("filter", " with filter")] {
            if let Some(value) = self.parameter(name) {
                // Writing to a string cannot fail.
                let _ = write!(text, "{words} `{}`", said(value.as_bytes()));
            }
        }
        text
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(other, _)| *other == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
}

/// What came back with 2xx or 404; everything else is an [`Error`].
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) found: bool,
    pub(super) meta: Meta,
    pub(super) body: Bytes,
}

#[cfg(any(test, feature = "fuzzing"))]
impl Answer {
    /// That body, without headers.
    pub(super) fn with_body(body: Vec<u8>) -> Self {
        Self { found: true, meta: Meta::default(), body: body.into() }
    }
}

type Pool = legacy::Client<Connector, Full<Bytes>>;

/// The pooled connections to one agent, and what every request carries.
pub(super) struct Transport {
    pool: Pool,
    pub(super) endpoint: Arc<Endpoint>,
    token: Token,
    auth: Option<HeaderValue>,
    max_body: usize,
}

impl Transport {
    pub(super) fn new(
        endpoint: Endpoint,
        secure: Option<Secure>,
        token: Token,
        auth: Option<&SecretString>,
        max_body: usize,
    ) -> Result<Self, Error> {
        let endpoint = Arc::new(endpoint);
        let pool = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(4)
            .build(Connector::new(Arc::clone(&endpoint), secure));
        let auth = auth.map(basic).transpose()?;
        Ok(Self { pool, endpoint, token, auth, max_body })
    }

    pub(super) fn addr(&self) -> Arc<str> {
        Arc::clone(&self.endpoint.shown)
    }

    pub(super) fn has_token(&self) -> bool {
        self.token.now().is_some()
    }

    /// Asks once and takes what there is now.
    pub(super) async fn send(&self, call: &Call) -> Result<Answer, Error> {
        self.within(PATIENCE, self.exchange(call, &Cursor::Start, Duration::ZERO), call).await
    }

    /// Asks for what comes after `cursor`, for at most `wait`.
    pub(super) async fn wait(&self, call: &Call, cursor: &Cursor, wait: Duration) -> Result<Answer, Error> {
        // The agent adds up to a sixteenth to the wait.
        let patience = match cursor {
            Cursor::Start => PATIENCE,
            Cursor::Index(_) | Cursor::Hash(_) => wait * 17 / 16 + Duration::from_secs(10),
        };
        self.within(patience, self.exchange(call, cursor, wait), call).await
    }

    async fn within(
        &self,
        patience: Duration,
        exchange: impl Future<Output = Result<Answer, Error>>,
        call: &Call,
    ) -> Result<Answer, Error> {
        let late = |_| Error::Timeout { addr: self.addr(), path: call.described(), after: patience };
        timeout(patience, exchange).await.map_err(late)?
    }

    async fn exchange(&self, call: &Call, cursor: &Cursor, wait: Duration) -> Result<Answer, Error> {
        let token = self.token.now();
        let answer = self.once_or_twice(call, cursor, wait, token.as_ref()).await?;
        // What a token may not see is left out of some answers instead.
        let refused = answer.status() == StatusCode::FORBIDDEN || Meta::read(answer.headers()).filtered;
        if !refused || !self.token.renewed(token.as_ref()).await {
            return self.judge(call, answer, token.is_some()).await;
        }
        let token = self.token.now();
        let answer = self.once_or_twice(call, cursor, wait, token.as_ref()).await?;
        self.judge(call, answer, token.is_some()).await
    }

    /// A GET that died on a pooled connection is sent once more, without its
    /// cursor: what closed the connection may have been a restart, after
    /// which the old index would hide the present.
    async fn once_or_twice(
        &self,
        call: &Call,
        cursor: &Cursor,
        wait: Duration,
        token: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>, Error> {
        let lost = match self.pool.request(self.request(call, cursor, wait, token)?).await {
            Ok(answer) => return Ok(opened(answer)),
            Err(lost) => lost,
        };
        if call.method != Method::GET || !was_pooled(&lost) {
            return Err(self.unreachable(&lost));
        }
        let again = self.request(call, &Cursor::Start, wait, token)?;
        self.pool.request(again).await.map(opened).map_err(|lost| self.unreachable(&lost))
    }

    fn request(
        &self,
        call: &Call,
        cursor: &Cursor,
        wait: Duration,
        token: Option<&HeaderValue>,
    ) -> Result<Request<Full<Bytes>>, Error> {
        let mut query: Vec<(&str, String)> = call.query.clone();
        match cursor {
            Cursor::Start => {}
            Cursor::Index(index) => query.push(("index", index.to_string())),
            Cursor::Hash(hash) => query.push(("hash", hash.clone())),
        }
        if !matches!(cursor, Cursor::Start) {
            query.push(("wait", GoDuration(wait).to_string()));
        }
        let endpoint = &self.endpoint;
        let uri = format!(
            "http://{}{}{}{}",
            endpoint.authority(),
            endpoint.prefix,
            call.path,
            super::path::query(&query)
        );
        let mut request = Request::builder().method(&call.method).uri(uri);
        if call.last_on_its_connection {
            request = request.header(header::CONNECTION, "close");
        }
        if let Some(token) = token {
            request = request.header("x-consul-token", token);
        }
        if let Some(auth) = &self.auth {
            request = request.header(header::AUTHORIZATION, auth);
        }
        request
            .body(Full::new(call.body.clone()))
            .map_err(|e| Error::Invalid(format!("{} is no request that can be sent ({e})", call.path)))
    }

    async fn judge(&self, call: &Call, answer: Response<Incoming>, token: bool) -> Result<Answer, Error> {
        let (head, body) = answer.into_parts();
        let body = self.collect(call, body).await?;
        let addr = self.addr();
        let path = call.described();
        let status = head.status.as_u16();
        Err(match status {
            200..=299 | 404 => {
                return Ok(Answer { found: status != 404, meta: Meta::read(&head.headers), body });
            }
            401 | 403 => {
                let said = said(&body);
                let unknown = said.contains("ACL not found") || said.contains("token not found");
                let token = match (token, unknown) {
                    (false, _) => TokenState::Missing,
                    (true, true) => TokenState::Unknown,
                    (true, false) => TokenState::Lacking,
                };
                Error::Denied { addr, path, said, needs: call.needs.clone(), token }
            }
            429 => Error::TooMany { addr, said: said(&body) },
            500 if !is_ours(&body) => unavailable(call, addr, status, &body),
            501..=599 => unavailable(call, addr, status, &body),
            400..=500 => Error::BadRequest { addr, path, status, said: said(&body) },
            300..=399 => {
                let to = head.headers.get(header::LOCATION).map_or(&b"nowhere"[..], HeaderValue::as_bytes);
                Error::Decode { addr, path, cause: format!("{status}, a redirect to {}", said(to)) }
            }
            _ => Error::Decode { addr, path, cause: format!("status {status}") },
        })
    }

    /// The whole body. Into one buffer as it comes: gathering its frames first
    /// would hold it twice, and it may be large.
    async fn collect(&self, call: &Call, body: Incoming) -> Result<Bytes, Error> {
        let mut body = Limited::new(body, self.max_body);
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => whole.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
                Err(e) if e.is::<LengthLimitError>() => {
                    return Err(Error::Decode {
                        addr: self.addr(),
                        path: call.path.clone(),
                        cause: format!("it is longer than the {} bytes that are accepted", self.max_body),
                    });
                }
                Err(e) => {
                    return Err(Error::Unreachable {
                        addr: self.addr(),
                        cause: format!("the connection broke in the middle of an answer ({})", root(&*e)),
                    });
                }
            }
        }
        Ok(whole.into())
    }

    fn unreachable(&self, lost: &legacy::Error) -> Error {
        let mut cause = root(lost);
        let lower = cause.to_ascii_lowercase();
        if lower.contains("certificate") || lower.contains("unknownca") {
            cause.push_str(
                " (CONSUL_CACERT names the authority to trust, CONSUL_TLS_SERVER_NAME the name to expect, \
                 CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY what to show)",
            );
        } else if lower.contains("corrupt message") {
            cause.push_str(" (it seems to speak no TLS: http:// instead of https://, CONSUL_HTTP_SSL)");
        }
        Error::Unreachable { addr: self.addr(), cause }
    }
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

/// Remembers that the connection works.
fn opened(answer: Response<Incoming>) -> Response<Incoming> {
    if let Some(used) = answer.extensions().get::<Used>() {
        used.mark();
    }
    answer
}

fn was_pooled(lost: &legacy::Error) -> bool {
    let mut extras = http::Extensions::new();
    if let Some(connected) = lost.connect_info() {
        connected.get_extras(&mut extras);
    }
    extras.get::<Used>().is_some_and(Used::is_marked)
}

/// The innermost cause: the layers above it say only that there is one.
fn root(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    said(deepest.to_string().as_bytes())
}

/// Returns whether a 500 blames the request. A server's words come through a
/// client agent inside `rpc error making call: …`, so this is asked first.
fn is_ours(body: &[u8]) -> bool {
    const OURS: [&str; 9] = [
        "Failed to create boolean expression evaluator",
        "strconv.Parse",
        "Invalid Session",
        "Invalid Behavior",
        "Session TTL",
        "does not have associated TTL",
        "Scripts are disabled",
        "invalid config entry",
        "required query parameter",
    ];
    let text = String::from_utf8_lossy(body);
    OURS.iter().any(|ours| text.contains(ours))
}

/// The error of a 5xx that does not blame the request.
fn unavailable(call: &Call, addr: Arc<str>, status: u16, body: &[u8]) -> Error {
    let said = said(body);
    match call.parameter("dc").map(str::to_owned) {
        None => Error::Unavailable { addr, status, said },
        Some(datacenter) => Error::DatacenterUnavailable { addr, datacenter, status, said },
    }
}

fn basic(auth: &SecretString) -> Result<HeaderValue, Error> {
    let pair = auth.expose_secret();
    let pair = if pair.contains(':') { pair.to_owned() } else { format!("{pair}:") };
    let encoded = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
    let mut value = HeaderValue::from_str(&encoded)
        .map_err(|_| Error::Config("CONSUL_HTTP_AUTH cannot be sent: write user:password".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}
