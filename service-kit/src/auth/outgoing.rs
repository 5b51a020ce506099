//! Calls to other services, made as oneself.

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

/// For how long a token of a service holds, and for how long it is used.
const LIFETIME: Duration = Duration::from_secs(300);
const MINTED_EVERY: Duration = Duration::from_secs(60);

/// A channel on which every call says who makes it. What a generated client is
/// made of; cheap to clone.
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
    /// Nobody asks.
    None,
    /// A service, which makes its own tokens.
    Service(Arc<Minter>),
    /// Whoever a token is about.
    Bearer(HeaderValue),
}

impl Outgoing {
    /// `channel`, on which nobody says who they are.
    pub(super) fn silent(channel: Channel) -> Self {
        Self { channel, identity: Identity::None }
    }

    /// `channel`, for calls of a service.
    pub(super) fn of(channel: Channel, minter: Arc<Minter>) -> Self {
        Self { channel, identity: Identity::Service(minter) }
    }

    /// `channel`, for calls of whoever `token` is about.
    ///
    /// # Errors
    /// UNAUTHENTICATED when it cannot stand in a header.
    pub fn bearing(channel: Channel, token: &SecretString) -> Result<Self, Status> {
        let header = bearer(token.expose_secret());
        let header = header.ok_or_else(|| Status::unauthenticated("the token cannot stand in a header"))?;
        Ok(Self { channel, identity: Identity::Bearer(header) })
    }
}

/// The value of `authorization`, marked so that it is neither shown nor kept in
/// the compression tables of a connection.
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
            Identity::Service(minter) => minter.header(),
            Identity::Bearer(header) => Some(header.clone()),
        };
        if let Some(header) = header {
            request.headers_mut().insert(AUTHORIZATION, header);
        }
        self.channel.call(request)
    }
}

/// Makes a service's own tokens, one a minute at most.
pub(super) struct Minter {
    signer: Signer,
    name: ServiceName,
    minted: Mutex<Option<(HeaderValue, Instant)>>,
}

impl Minter {
    pub(super) fn new(signer: Signer, name: ServiceName) -> Self {
        Self { signer, name, minted: Mutex::new(None) }
    }

    fn header(&self) -> Option<HeaderValue> {
        let mut minted = self.minted.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let young = minted.as_ref().filter(|(_, at)| now.duration_since(*at) < MINTED_EVERY);
        if let Some((header, _)) = young {
            return Some(header.clone());
        }
        let token = self.signer.sign(&Claims::service(self.name.clone(), LIFETIME));
        // What base64 is made of can stand in a header.
        let header = bearer(&token)?;
        *minted = Some((header.clone(), now));
        Some(header)
    }
}

impl fmt::Debug for Minter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Minter").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Seed;

    fn minter() -> Minter {
        let signer = Signer::of(Seed::generate().unwrap()).unwrap();
        Minter::new(signer, "cart-service".parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_used_for_a_minute() {
        let minter = minter();
        let first = minter.header().unwrap();
        tokio::time::advance(MINTED_EVERY - Duration::from_millis(1)).await;
        assert_eq!(minter.header().unwrap(), first);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_ne!(minter.header().unwrap(), first);
    }

    #[tokio::test]
    async fn a_token_is_not_shown() {
        let minter = minter();
        let header = minter.header().unwrap();
        assert!(header.is_sensitive());
        let outgoing = Outgoing::of(Channel::broken(Status::internal("none")), Arc::new(minter));
        let bearing = Outgoing::bearing(outgoing.channel.clone(), &"hunter2".into()).unwrap();
        let shown = format!("{outgoing:?} {bearing:?} {header:?}");
        let token = header.to_str().unwrap().trim_start_matches("Bearer ");
        assert!(!shown.contains(token) && !shown.contains("hunter2"), "{shown}");
    }
}
