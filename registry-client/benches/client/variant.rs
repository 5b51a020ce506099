//! The channels that are compared, each over the same echo servers.

use std::{error::Error, str::FromStr, sync::Arc, time::Duration};

use registry_client::{
    Channel, ChannelConfig,
    instance::{Address, ServiceName},
    policy::Methods,
    resolve::fixed::FixedResolver,
};
use tokio::task::JoinSet;
use tonic::transport::Endpoint;

use crate::echo::{self, Payload};

type BoxError = Box<dyn Error + Send + Sync>;

/// A way to call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// tonic's `Channel` to one endpoint: the measure of all others.
    Tonic,
    /// tonic's `Channel::balance_list` over all endpoints.
    BalanceList,
    /// Our `Channel` over all endpoints, with `least_request` and a deadline.
    Consort,
}

impl Variant {
    pub(crate) const ALL: [Self; 3] = [Self::Tonic, Self::BalanceList, Self::Consort];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tonic => "tonic",
            Self::BalanceList => "balance_list",
            Self::Consort => "consort",
        }
    }

    /// Connects, and makes a first call to be sure of it.
    pub(crate) async fn open(self, ports: &[u16]) -> Result<Open, BoxError> {
        let endpoint = |port: &u16| Endpoint::from_shared(format!("http://127.0.0.1:{port}"));
        let open = match self {
            Self::Tonic => {
                let port = ports.first().ok_or("no port given")?;
                Open::Tonic(endpoint(port)?.connect().await?)
            }
            Self::BalanceList => {
                let endpoints = ports.iter().map(endpoint).collect::<Result<Vec<_>, _>>()?;
                Open::Tonic(tonic::transport::Channel::balance_list(endpoints.into_iter()))
            }
            Self::Consort => Open::Consort(consort(ports)?),
        };
        // Enough calls that every endpoint has a connection.
        open.calls(64, 8).await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
        open.calls(64, 8).await?;
        Ok(open)
    }
}

impl FromStr for Variant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|variant| variant.name() == text);
        found.ok_or_else(|| format!("there is no variant `{text}`; there are tonic, balance_list, consort"))
    }
}

fn consort(ports: &[u16]) -> Result<Channel, BoxError> {
    let address = |port: &u16| Address::new("127.0.0.1", *port);
    let resolver = FixedResolver::new(ports.iter().map(address).collect::<Result<Vec<_>, _>>()?);
    let service: ServiceName = "echo".parse()?;
    Ok(Channel::new(service, &resolver, Methods::default(), ChannelConfig::default()))
}

/// A channel that is connected.
#[derive(Clone)]
pub(crate) enum Open {
    Tonic(tonic::transport::Channel),
    Consort(Channel),
}

impl Open {
    /// Makes `count` calls of 100 bytes, `callers` at a time.
    pub(crate) async fn calls(&self, count: usize, callers: usize) -> Result<(), BoxError> {
        let payload = Arc::new(Payload { data: vec![7; 100] });
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            let (open, payload) = (self.clone(), payload.clone());
            tasks.spawn(async move {
                for _ in 0..count / callers {
                    let payload = Payload::clone(&payload);
                    let answer = match &open {
                        Self::Tonic(channel) => echo::call(channel.clone(), payload).await,
                        Self::Consort(channel) => echo::call(channel.clone(), payload).await,
                    }?;
                    assert_eq!(answer.data.len(), 100, "the echo is not what was sent");
                }
                Ok::<_, tonic::Status>(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        Ok(())
    }
}
