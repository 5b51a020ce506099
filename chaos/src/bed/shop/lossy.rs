//! A user-service that loses some of what it is brought. It is put together of
//! the same parts as the true one; only what takes events stands behind a chance.

use std::time::Duration;

use clap::Args;
use mesh_proto::shop::{
    events::v1::{
        DeliverRequest, DeliverResponse, Event,
        event_sink_service_server::{EventSinkService, EventSinkServiceServer},
    },
    user::v1::user_service_server::UserServiceServer,
};
use service_kit::{
    database::{Error, Migrations, Transaction},
    events::{Events, HandleError, Outbox, Sink, Subscriber},
    service::{Service, ServiceBuilder, ServiceContext},
};
use tokio::time::sleep;
use tonic::{Request, Response, Status};
use user_service::{
    Clock, NAME, Notifier, SUBSCRIBERS, UserService, Users,
    hasher::Hasher,
    keys::{KeySchedule, Keyring},
    store::Store,
};

/// One of so many losses is silent, so that its sender waits.
const SILENT: u8 = 8;
/// Longer than a sender waits.
const SILENCE: Duration = Duration::from_secs(5);
/// The variables that say how it fails, for [`Plan::env`](super::Plan::env).
pub(crate) const DROPS: &str = "CHAOS_SINK_DROPS";
pub(crate) const FORGETS: &str = "CHAOS_SINK_FORGETS";

/// How it fails.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Losses {
    /// Percent of deliveries that user-service loses, half of them after their
    /// effect.
    #[arg(long, env = DROPS, value_parser = clap::value_parser!(u8).range(0..=90))]
    sink_drops: Option<u8>,
    /// Whether user-service forgets at once which events it has taken.
    #[arg(long, env = FORGETS)]
    sink_forgets: bool,
}

impl Losses {
    pub(super) fn any(self) -> bool {
        self.sink_drops.is_some() || self.sink_forgets
    }

    fn strike(self) -> bool {
        fastrand::u8(0..100) < self.sink_drops.unwrap_or_default()
    }
}

/// The user-service that fails as [`Losses`] say.
#[derive(Debug)]
pub(super) struct LossyUserService(pub(super) Losses);

impl Service for LossyUserService {
    const NAME: &'static str = NAME;
    const VERSION: &'static str = UserService::VERSION;
    const MIGRATIONS: Migrations = UserService::MIGRATIONS;

    async fn build(
        &self,
        context: &ServiceContext,
        builder: ServiceBuilder,
    ) -> anyhow::Result<ServiceBuilder> {
        let losses = self.0;
        let outbox = Outbox::of(context, NAME, SUBSCRIBERS);
        let (store, clock) = (Store::new(context.database.clone(), outbox), Clock::system());
        let keys =
            Keyring::open(store.clone(), clock.clone(), KeySchedule::default(), context.auth.clone()).await?;
        let builder = builder.serve(UserServiceServer::new(Users::new(store, Hasher::new(), keys, clock)));
        let events = Events::of(context, NAME).send(outbox);
        if context.nats.is_some() {
            // What comes by the stream is lost where it is taken.
            return Ok(events.receive(&["order-service"], Taker { losses, refuses: true }).add_to(builder));
        }
        let taker = Taker { losses, refuses: false };
        let sink = LossySink { inner: Sink::new(NAME, context.database.clone(), taker), losses };
        Ok(events.add_to(builder.serve(EventSinkServiceServer::new(sink))))
    }
}

/// Loses deliveries on their way in, and answers on their way out.
struct LossySink {
    inner: Sink,
    losses: Losses,
}

#[tonic::async_trait]
impl EventSinkService for LossySink {
    async fn deliver(&self, request: Request<DeliverRequest>) -> Result<Response<DeliverResponse>, Status> {
        let lost = self.losses.strike();
        if lost && fastrand::bool() {
            return Err(loss().await);
        }
        let done = self.inner.deliver(request).await;
        if lost { Err(loss().await) } else { done }
    }
}

async fn loss() -> Status {
    if fastrand::u8(0..SILENT) == 0 {
        sleep(SILENCE).await;
    }
    Status::unavailable("lost on purpose")
}

/// The subscriber, which may refuse, and may forget what it took.
struct Taker {
    losses: Losses,
    refuses: bool,
}

#[tonic::async_trait]
impl Subscriber for Taker {
    async fn handle(&self, open: &mut Transaction, event: &Event) -> Result<(), HandleError> {
        let refused = || Error::corrupt("event", "lost on purpose");
        let lost = self.refuses && self.losses.strike();
        if lost && fastrand::bool() {
            return Err(refused().into());
        }
        Notifier.handle(open, event).await?;
        if self.losses.sink_forgets {
            let id = event.event_id.as_str().into();
            open.execute("DELETE FROM inbox WHERE event_id = $1", &[id]).await?;
        }
        if lost { Err(refused().into()) } else { Ok(()) }
    }
}
