//! Who calls a replica straight while something is wrong with it, and writes
//! down what it is told.

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

/// The time that a call says it has, and what it may take besides.
const DEADLINE: Duration = Duration::from_secs(5);
const GRACE: Duration = Duration::from_secs(3);
const CALLERS: usize = 4;
const PAUSE: Duration = Duration::from_millis(20);
/// How often the health is asked for.
const ASK: Duration = Duration::from_millis(20);

/// One call for a customer of its own.
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
    /// Calls from now on: some on one connection, one on a new one each time.
    pub(super) fn start(listen: SocketAddr, name: &str) -> Result<Self> {
        let (mut calls, stop) = (JoinSet::new(), CancellationToken::new());
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let kept = endpoint(listen)?.connect_lazy();
        for caller in 0..=CALLERS {
            let kept = (caller < CALLERS).then(|| kept.clone());
            let (endpoint, stop, told) = (endpoint(listen)?, stop.clone(), acknowledged.clone());
            let name = format!("{name}-{caller}");
            calls.spawn(async move {
                let mut calls = Vec::new();
                while !stop.is_cancelled() {
                    let channel = kept.clone().unwrap_or_else(|| endpoint.connect_lazy());
                    let call = add(channel, format!("{name}-{}", calls.len())).await;
                    told.fetch_add(usize::from(call.code == Code::Ok), Relaxed);
                    calls.push(call);
                    sleep(PAUSE).await;
                }
                calls
            });
        }
        Ok(Self { calls, stop, acknowledged })
    }

    /// Waits until so many more calls were acknowledged.
    pub(super) async fn acknowledged(&self, more: usize, limit: Duration) -> Result<()> {
        let wanted = self.acknowledged.load(Relaxed) + more;
        let enough = async {
            while self.acknowledged.load(Relaxed) < wanted {
                sleep(ASK).await;
            }
        };
        timeout(limit, enough).await.context("calls are not acknowledged")
    }

    /// Ends; all calls.
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
    let answer = timeout(DEADLINE + GRACE, CartServiceClient::new(channel).add_item(request)).await;
    let code = match answer {
        Ok(Ok(_)) => Code::Ok,
        Ok(Err(status)) => status.code(),
        Err(_) => Code::DeadlineExceeded,
    };
    Call { customer, began, ended: Instant::now(), code }
}

fn endpoint(listen: SocketAddr) -> Result<Endpoint> {
    Ok(Endpoint::from_shared(format!("http://{listen}"))?.connect_timeout(DEADLINE))
}

/// How long it takes from now until that replica says that it serves, or does
/// not; `None` when it does not come within `limit`. Asked on a new connection
/// each time.
pub(super) async fn until(listen: SocketAddr, serves: bool, limit: Duration) -> Result<Option<Duration>> {
    let began = Instant::now();
    let endpoint = endpoint(listen)?;
    let wanted = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
    while began.elapsed() < limit {
        let mut client = HealthClient::new(endpoint.connect_lazy());
        let asked = timeout(Duration::from_secs(1), client.check(HealthCheckRequest::default())).await;
        if asked.is_ok_and(|said| said.is_ok_and(|said| said.into_inner().status() == wanted)) {
            return Ok(Some(began.elapsed()));
        }
        sleep(ASK).await;
    }
    Ok(None)
}
