//! A faulty service on TCP.

use std::{io, net::SocketAddr, ops::Deref};

use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::task::AbortOnDropHandle;

use super::FaultyService;
use crate::instance::Instance;

/// The most open connections; others wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;

/// A server of a [`FaultyService`], whose behaviour can be changed while it
/// runs. Dropping it kills it: connections break and the port is closed.
///
/// ```
/// use registry_client::{
///     Channel, ChannelConfig,
///     policy::Methods,
///     resolve::fixed::FixedResolver,
///     testing::{FaultyServer, Reply},
/// };
/// use tonic::Code;
/// # use tonic::{Status, client::Grpc};
/// # // What a generated client does.
/// # async fn say(words: &str, channel: &Channel) -> Result<String, Status> {
/// #     let mut client = Grpc::new(channel.clone());
/// #     client.ready().await?;
/// #     let path = http::uri::PathAndQuery::from_static("/greeter.v1.Greeter/Say");
/// #     let codec = tonic_prost::ProstCodec::<String, String>::default();
/// #     Ok(client.unary(tonic::Request::new(words.into()), path, codec).await?.into_inner())
/// # }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (one, other) = (FaultyServer::start(Reply::Echo).await?, FaultyServer::start(Reply::Echo).await?);
/// let resolver = FixedResolver::with([one.instance("one"), other.instance("other")]);
/// let channel =
///     Channel::new("greeter".parse()?, &resolver, Methods::default(), ChannelConfig::default());
///
/// // `say` calls through a generated client.
/// assert_eq!(say("hello", &channel).await?, "hello");
///
/// // A stream that is refused was not processed: another instance gets it.
/// one.set(Reply::Refuse);
/// for _ in 0..20 {
///     assert_eq!(say("hello", &channel).await?, "hello");
/// }
///
/// // A request that may have been processed fails for its caller.
/// one.set(Reply::fail(Code::Internal));
/// other.set(Reply::fail(Code::Internal));
/// assert_eq!(say("hello", &channel).await.unwrap_err().code(), Code::Internal);
/// assert!(one.counts().requests + other.counts().requests >= 22);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FaultyServer {
    service: FaultyService,
    address: SocketAddr,
    _accepting: AbortOnDropHandle<()>,
}

impl FaultyServer {
    /// Serves on a free port of the loopback address. A [`Reply`](super::Reply)
    /// is a service too, with this reply to every request.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(service: impl Into<FaultyService>) -> io::Result<Self> {
        Self::start_at(([127, 0, 0, 1], 0).into(), service).await
    }

    /// Serves on this address, for a server that restarts at the same one.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start_at(address: SocketAddr, service: impl Into<FaultyService>) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let (address, service) = (listener.local_addr()?, service.into());
        let accepting = AbortOnDropHandle::new(tokio::spawn(accept(listener, service.clone())));
        Ok(Self { service, address, _accepting: accepting })
    }

    /// The address that it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The instance for a resolver: passing, of weight 1, with this id.
    #[must_use]
    pub fn instance(&self, id: &str) -> Instance {
        Instance::new(id, self.address.into())
    }
}

/// The server has every method of its service.
impl Deref for FaultyServer {
    type Target = FaultyService;

    fn deref(&self) -> &FaultyService {
        &self.service
    }
}

async fn accept(listener: TcpListener, service: FaultyService) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = open.join_next() => {}
            Ok((socket, _)) = listener.accept(), if open.len() < MAX_CONNECTIONS => {
                // Without it answers are late, not wrong.
                let _ = socket.set_nodelay(true);
                let service = service.clone();
                open.spawn(async move { service.serve(socket).await });
            }
            // The listener failed, and no connection is left.
            else => return,
        }
    }
}
