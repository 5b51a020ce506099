//! Callers of one replica, without the mesh, that record every response.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use mesh_proto::shop::cart::v1::{AddItemRequest, cart_service_client::CartServiceClient};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// The deadline of a call, and the margin before it is cancelled.
const DEADLINE: Duration = Duration::from_secs(5);
const DEADLINE_MARGIN: Duration = Duration::from_secs(3);
const CALLERS: usize = 4;
const CALL_INTERVAL: Duration = Duration::from_millis(20);
/// The interval between two health checks.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// One call, for a customer of its own.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) customer: String,
    pub(super) began: Instant,
    pub(super) ended: Instant,
    /// `Ok` for an acknowledgement.
    pub(super) code: Code,
}

/// Callers of one replica of cart-service.
#[derive(Debug)]
pub(super) struct CartLoad {
    calls: JoinSet<Vec<Call>>,
    stop: CancellationToken,
    acknowledged: Arc<AtomicUsize>,
}

impl CartLoad {
    /// Starts the callers: some share a connection, one opens a new one for
    /// each call.
    pub(super) fn start(listen: SocketAddr, name: &str) -> Result<Self> {
        let (mut calls, stop) = (JoinSet::new(), CancellationToken::new());
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let channel = endpoint(listen)?.connect_lazy();
        for caller in 0..=CALLERS {
            let channel = (caller < CALLERS).then(|| channel.clone());
            let (endpoint, stop, count) = (endpoint(listen)?, stop.clone(), acknowledged.clone());
            let name = format!("{name}-{caller}");
            calls.spawn(async move {
                let mut calls = Vec::new();
                while !stop.is_cancelled() {
                    let channel = channel.clone().unwrap_or_else(|| endpoint.connect_lazy());
                    let call = add(channel, format!("{name}-{}", calls.len())).await;
                    count.fetch_add(usize::from(call.code == Code::Ok), Relaxed);
                    calls.push(call);
                    sleep(CALL_INTERVAL).await;
                }
                calls
            });
        }
        Ok(Self { calls, stop, acknowledged })
    }

    /// Waits until so many more calls are acknowledged.
    pub(super) async fn acknowledged(&self, more: usize, limit: Duration) -> Result<()> {
        let expected = self.acknowledged.load(Relaxed) + more;
        let enough = async {
            while self.acknowledged.load(Relaxed) < expected {
                sleep(POLL_INTERVAL).await;
            }
        };
        timeout(limit, enough).await.context("calls are not acknowledged")
    }

    /// Stops the callers and returns all calls.
    pub(super) async fn end(self) -> Vec<Call> {
        self.stop.cancel();
        self.calls.join_all().await.concat()
    }
}

async fn add(channel: Channel, customer: String) -> Call {
    let began = Instant::now();
    let (customer_id, product_id) = (customer.clone(), "tea".to_owned());
    let item = AddItemRequest { customer_id, product_id, quantity: 1, etag: String::new() };
    let mut request = Request::new(item);
    request.set_timeout(DEADLINE);
    let response =
        timeout(DEADLINE + DEADLINE_MARGIN, CartServiceClient::new(channel).add_item(request)).await;
    let code = match response {
        Ok(Ok(_)) => Code::Ok,
        Ok(Err(status)) => status.code(),
        Err(_) => Code::DeadlineExceeded,
    };
    Call { customer, began, ended: Instant::now(), code }
}

fn endpoint(listen: SocketAddr) -> Result<Endpoint> {
    Ok(Endpoint::from_shared(format!("http://{listen}"))?.connect_timeout(DEADLINE))
}

/// The time until that replica reports that it serves, or does not; `None` if
/// that takes longer than `limit`. Each check uses a new connection.
pub(super) async fn time_until_serving(
    listen: SocketAddr,
    serves: bool,
    limit: Duration,
) -> Result<Option<Duration>> {
    let began = Instant::now();
    let endpoint = endpoint(listen)?;
    let expected = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
    while began.elapsed() < limit {
        let mut client = HealthClient::new(endpoint.connect_lazy());
        let response = timeout(Duration::from_secs(1), client.check(HealthCheckRequest::default())).await;
        if response
            .is_ok_and(|message| message.is_ok_and(|message| message.into_inner().status() == expected))
        {
            return Ok(Some(began.elapsed()));
        }
        sleep(POLL_INTERVAL).await;
    }
    Ok(None)
}
