//! Outgoing calls with a token.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use registry_client::{Channel, instance::ServiceName};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use tonic::{
    Status,
    body::Body,
    codegen::{
        Service,
        http::{HeaderValue, Request, header::AUTHORIZATION},
    },
};

use super::{Claims, Signer};

const TOKEN_LIFETIME: Duration = Duration::from_secs(300);
const MINT_INTERVAL: Duration = Duration::from_secs(60);

/// A channel that adds a token to every call, for generated clients. Cheap to
/// clone.
///
/// ```no_run
/// # use mesh_proto::shop::cart::v1::cart_service_client::CartServiceClient;
/// # fn build(context: &service_kit::service::ServiceContext) {
/// let carts = CartServiceClient::new(context.auth.client(context.mesh.channel("cart-service")));
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Outgoing {
    channel: Channel,
    identity: Identity,
}

#[derive(Clone, Debug)]
enum Identity {
    None,
    /// A service, which signs its own tokens.
    Service(Arc<TokenSource>),
    /// The subject of a token.
    Bearer(HeaderValue),
}

impl Outgoing {
    /// A channel for calls without a token.
    pub(super) fn anonymous(channel: Channel) -> Self {
        Self { channel, identity: Identity::None }
    }

    /// A channel for calls of a service.
    pub(super) fn of(channel: Channel, tokens: Arc<TokenSource>) -> Self {
        Self { channel, identity: Identity::Service(tokens) }
    }

    /// A channel for calls with `token`.
    ///
    /// # Errors
    /// UNAUTHENTICATED when it is no valid header value.
    pub fn with_token(channel: Channel, token: &SecretString) -> Result<Self, Status> {
        let header = bearer(token.expose_secret());
        let header =
            header.ok_or_else(|| Status::unauthenticated("the token is not a valid header value"))?;
        Ok(Self { channel, identity: Identity::Bearer(header) })
    }
}

/// The value of `authorization`, marked as sensitive so that it is neither shown
/// nor kept in the compression tables of a connection.
fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl Service<Request<Body>> for Outgoing {
    type Response = <Channel as Service<Request<Body>>>::Response;
    type Error = Status;
    type Future = <Channel as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let header = match &self.identity {
            Identity::None => None,
            Identity::Service(tokens) => tokens.header(),
            Identity::Bearer(header) => Some(header.clone()),
        };
        if let Some(header) = header {
            request.headers_mut().insert(AUTHORIZATION, header);
        }
        self.channel.call(request)
    }
}

/// The source of a service's own tokens, at most one new token a minute.
pub(super) struct TokenSource {
    signer: Signer,
    name: ServiceName,
    minted: Mutex<Option<(HeaderValue, Instant)>>,
}

impl TokenSource {
    pub(super) fn new(signer: Signer, name: ServiceName) -> Self {
        Self { signer, name, minted: Mutex::new(None) }
    }

    fn header(&self) -> Option<HeaderValue> {
        let mut minted = self.minted.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let current = minted.as_ref().filter(|(_, at)| now.duration_since(*at) < MINT_INTERVAL);
        if let Some((header, _)) = current {
            return Some(header.clone());
        }
        let token = self.signer.sign(&Claims::service(self.name.clone(), TOKEN_LIFETIME));
        // Base64 is always a valid header value.
        let header = bearer(&token)?;
        *minted = Some((header.clone(), now));
        Some(header)
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSource").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Seed;

    fn tokens() -> TokenSource {
        let signer = Signer::of(Seed::generate().unwrap()).unwrap();
        TokenSource::new(signer, "cart-service".parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_used_for_a_minute() {
        let tokens = tokens();
        let first = tokens.header().unwrap();
        tokio::time::advance(MINT_INTERVAL - Duration::from_millis(1)).await;
        assert_eq!(tokens.header().unwrap(), first);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_ne!(tokens.header().unwrap(), first);
    }

    #[tokio::test]
    async fn a_token_is_not_shown() {
        let tokens = tokens();
        let header = tokens.header().unwrap();
        assert!(header.is_sensitive());
        let outgoing = Outgoing::of(Channel::broken(Status::internal("none")), Arc::new(tokens));
        let with_token = Outgoing::with_token(outgoing.channel.clone(), &"hunter2".into()).unwrap();
        let shown = format!("{outgoing:?} {with_token:?} {header:?}");
        let token = header.to_str().unwrap().trim_start_matches("Bearer ");
        assert!(!shown.contains(token) && !shown.contains("hunter2"), "{shown}");
    }
}
