//! HTTP requests to an agent: bounded time, bounded bodies, no redirects, the
//! token in a header, and errors with their fix.

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
    error::{TokenState, excerpt},
    tls::Secure,
    token::Token,
    watch::cursor::{Cursor, Meta},
};

/// The timeout of a request: an agent without a leader takes 7 to 19 s to
/// respond.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The timeout of idle connections; an agent closes them after 120 s.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// A request to an agent.
#[derive(Clone, Debug)]
pub(super) struct HttpCall {
    pub(super) method: Method,
    /// Begins with `/v1/`, every segment percent-encoded.
    pub(super) path: String,
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) body: Bytes,
    /// The ACL permissions that it needs, for error messages.
    pub(super) needs: String,
    /// True if the connection is closed after it.
    pub(super) closes_connection: bool,
}

impl HttpCall {
    pub(super) fn new(method: Method, path: impl Into<String>, needs: impl Into<String>) -> Self {
        let (path, needs) = (path.into(), needs.into());
        Self { method, path, query: Vec::new(), body: Bytes::new(), needs, closes_connection: false }
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

    /// The path with the datacenter and the filter, for messages.
    fn described(&self) -> String {
        let mut text = self.path.clone();
        for (name, words) in [("dc", " in datacenter"), ("filter", " with filter")] {
            if let Some(value) = self.parameter(name) {
                // Writing to a string cannot fail.
                let _ = write!(text, "{words} `{}`", excerpt(value.as_bytes()));
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

/// A response with 2xx or 404; any other is an [`Error`].
#[derive(Debug)]
pub(super) struct HttpResponse {
    pub(super) found: bool,
    pub(super) meta: Meta,
    pub(super) body: Bytes,
}

#[cfg(any(test, feature = "fuzzing"))]
impl HttpResponse {
    /// A response with this body and no headers.
    pub(super) fn with_body(body: Vec<u8>) -> Self {
        Self { found: true, meta: Meta::default(), body: body.into() }
    }
}

type Pool = legacy::Client<Connector, Full<Bytes>>;

/// The pooled connections to one agent, and the settings of every request.
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
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
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

    /// Sends a request that does not block.
    pub(super) async fn send(&self, call: &HttpCall) -> Result<HttpResponse, Error> {
        self.with_timeout(REQUEST_TIMEOUT, self.exchange(call, &Cursor::Start, Duration::ZERO), call).await
    }

    /// Sends a blocking query from `cursor`, which waits at most `wait`.
    pub(super) async fn wait(
        &self,
        call: &HttpCall,
        cursor: &Cursor,
        wait: Duration,
    ) -> Result<HttpResponse, Error> {
        // The agent adds up to a sixteenth to the wait.
        let limit = match cursor {
            Cursor::Start => REQUEST_TIMEOUT,
            Cursor::Index(_) | Cursor::Hash(_) => wait * 17 / 16 + Duration::from_secs(10),
        };
        self.with_timeout(limit, self.exchange(call, cursor, wait), call).await
    }

    async fn with_timeout(
        &self,
        limit: Duration,
        exchange: impl Future<Output = Result<HttpResponse, Error>>,
        call: &HttpCall,
    ) -> Result<HttpResponse, Error> {
        let late = |_| Error::Timeout { addr: self.addr(), path: call.described(), after: limit };
        timeout(limit, exchange).await.map_err(late)?
    }

    async fn exchange(
        &self,
        call: &HttpCall,
        cursor: &Cursor,
        wait: Duration,
    ) -> Result<HttpResponse, Error> {
        let token = self.token.now();
        let response = self.send_with_retry(call, cursor, wait, token.as_ref()).await?;
        // Some responses are filtered instead of denied.
        let refused = response.status() == StatusCode::FORBIDDEN || Meta::read(response.headers()).filtered;
        if !refused || !self.token.renewed(token.as_ref()).await {
            return self.classify(call, response, token.is_some()).await;
        }
        let token = self.token.now();
        let response = self.send_with_retry(call, cursor, wait, token.as_ref()).await?;
        self.classify(call, response, token.is_some()).await
    }

    /// Sends a request; a GET that failed on a pooled connection is sent once
    /// more, without its cursor: a restart may have closed the connection,
    /// after which the old index would hide the current content.
    async fn send_with_retry(
        &self,
        call: &HttpCall,
        cursor: &Cursor,
        wait: Duration,
        token: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>, Error> {
        let error = match self.pool.request(self.request(call, cursor, wait, token)?).await {
            Ok(response) => return Ok(mark_used(response)),
            Err(error) => error,
        };
        if call.method != Method::GET || !was_pooled(&error) {
            return Err(self.unreachable(&error));
        }
        let again = self.request(call, &Cursor::Start, wait, token)?;
        self.pool.request(again).await.map(mark_used).map_err(|error| self.unreachable(&error))
    }

    fn request(
        &self,
        call: &HttpCall,
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
        if call.closes_connection {
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

    async fn classify(
        &self,
        call: &HttpCall,
        response: Response<Incoming>,
        token: bool,
    ) -> Result<HttpResponse, Error> {
        let (head, body) = response.into_parts();
        let body = self.collect(call, body).await?;
        let addr = self.addr();
        let path = call.described();
        let status = head.status.as_u16();
        Err(match status {
            200..=299 | 404 => {
                return Ok(HttpResponse { found: status != 404, meta: Meta::read(&head.headers), body });
            }
            401 | 403 => {
                let message = excerpt(&body);
                let unknown = message.contains("ACL not found") || message.contains("token not found");
                let token = match (token, unknown) {
                    (false, _) => TokenState::Missing,
                    (true, true) => TokenState::Unknown,
                    (true, false) => TokenState::Lacking,
                };
                Error::Denied { addr, path, message, needs: call.needs.clone(), token }
            }
            429 => Error::TooMany { addr, message: excerpt(&body) },
            500 if !blames_request(&body) => unavailable(call, addr, status, &body),
            501..=599 => unavailable(call, addr, status, &body),
            400..=500 => Error::BadRequest { addr, path, status, message: excerpt(&body) },
            300..=399 => {
                let to = head.headers.get(header::LOCATION).map_or(&b"nowhere"[..], HeaderValue::as_bytes);
                Error::Decode { addr, path, cause: format!("{status}, a redirect to {}", excerpt(to)) }
            }
            _ => Error::Decode { addr, path, cause: format!("status {status}") },
        })
    }

    /// Reads the whole body into one buffer: collecting its frames first would
    /// hold it twice, and it may be large.
    async fn collect(&self, call: &HttpCall, body: Incoming) -> Result<Bytes, Error> {
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
                        cause: format!("the connection broke in the middle of a response ({})", root(&*e)),
                    });
                }
            }
        }
        Ok(whole.into())
    }

    fn unreachable(&self, error: &legacy::Error) -> Error {
        let mut cause = root(error);
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

/// Marks the connection as used.
fn mark_used(response: Response<Incoming>) -> Response<Incoming> {
    if let Some(used) = response.extensions().get::<Used>() {
        used.mark();
    }
    response
}

fn was_pooled(error: &legacy::Error) -> bool {
    let mut extras = http::Extensions::new();
    if let Some(connected) = error.connect_info() {
        connected.get_extras(&mut extras);
    }
    extras.get::<Used>().is_some_and(Used::is_marked)
}

/// The innermost cause: the layers above it add nothing.
fn root(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    excerpt(deepest.to_string().as_bytes())
}

/// Returns whether a 500 is an error of the request, even inside a client
/// agent's `rpc error making call: …`.
fn blames_request(body: &[u8]) -> bool {
    const REQUEST_ERRORS: [&str; 9] = [
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
    REQUEST_ERRORS.iter().any(|ours| text.contains(ours))
}

/// The error of a 5xx that is not an error of the request.
fn unavailable(call: &HttpCall, addr: Arc<str>, status: u16, body: &[u8]) -> Error {
    let message = excerpt(body);
    match call.parameter("dc").map(str::to_owned) {
        None => Error::Unavailable { addr, status, message },
        Some(datacenter) => Error::DatacenterUnavailable { addr, datacenter, status, message },
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
