//! The address of a database server: a TCP port that leads to one of several.

use std::{net::SocketAddr, path::PathBuf};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

/// The fate of open connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Open {
    /// They stay where they lead.
    #[default]
    Stay,
    /// They are closed.
    Close,
    /// They stay open and carry nothing any more, as to a host that is gone.
    Silence,
}

#[derive(Clone, Debug)]
struct Route {
    server: PathBuf,
    open: Open,
}

/// A TCP port that leads new connections to the server that it points at.
#[derive(Debug)]
pub(crate) struct Front {
    address: SocketAddr,
    route: watch::Sender<Route>,
    _accepting: AbortOnDropHandle<()>,
}

impl Front {
    pub(crate) async fn to(server: PathBuf) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let route = watch::Sender::new(Route { server, open: Open::Stay });
        let accepting = AbortOnDropHandle::new(tokio::spawn(accept(listener, route.clone())));
        Self { address, route, _accepting: accepting }
    }

    /// The URL of the database `postgres` behind it.
    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@{}/postgres", self.address)
    }

    pub(crate) fn switch(&self, server: PathBuf, open: Open) {
        self.route.send_replace(Route { server, open });
    }
}

async fn accept(listener: TcpListener, route: watch::Sender<Route>) {
    let mut carrying = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let mut route = route.subscribe();
        let server = route.borrow_and_update().server.clone();
        carrying.spawn(async move {
            // A server that is not there is a connection that closes.
            if let Ok(server) = UnixStream::connect(server).await {
                carry(client, server, route).await;
            }
        });
    }
}

async fn carry(mut client: TcpStream, mut server: UnixStream, mut route: watch::Receiver<Route>) {
    let end = async {
        loop {
            // Fails when the front is dropped.
            let open = route.changed().await.map_or(Open::Close, |()| route.borrow_and_update().open);
            if open != Open::Stay {
                return open;
            }
        }
    };
    let ended = tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => Open::Close,
        ended = end => ended,
    };
    if ended == Open::Silence {
        std::future::pending::<()>().await;
    }
}
