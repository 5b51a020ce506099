//! A user-service that loses a random part of the events it receives. It consists
//! of the same parts as the real one, except for its event sink.

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

/// The share of losses without a response, so that the sender times out: one in
/// this many.
const SILENT_LOSS_ONE_IN: u8 = 8;
/// The time without a response; longer than the sender's timeout.
const SILENCE_TIME: Duration = Duration::from_secs(5);
/// The variables that configure the losses, for
/// [`Plan::env`](super::Plan::env).
pub(crate) const SINK_DROPS_ENV: &str = "CHAOS_SINK_DROPS";
pub(crate) const SINK_FORGETS_ENV: &str = "CHAOS_SINK_FORGETS";

/// The losses of the event sink.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Losses {
    /// Percent of deliveries that user-service loses, half of them after their
    /// effect.
    #[arg(long, env = SINK_DROPS_ENV, value_parser = clap::value_parser!(u8).range(0..=90))]
    sink_drops: Option<u8>,
    /// Lets user-service lose its record of delivered events at once.
    #[arg(long, env = SINK_FORGETS_ENV)]
    sink_forgets: bool,
}

impl Losses {
    pub(super) fn is_enabled(self) -> bool {
        self.sink_drops.is_some() || self.sink_forgets
    }

    fn draws_loss(self) -> bool {
        fastrand::u8(0..100) < self.sink_drops.unwrap_or_default()
    }
}

/// A user-service with [`Losses`].
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
            // Events from the stream are lost in the subscriber.
            return Ok(events
                .receive(&["order-service"], LossySubscriber { losses, rejects: true })
                .add_to(builder));
        }
        let subscriber = LossySubscriber { losses, rejects: false };
        let sink = LossySink { inner: Sink::new(NAME, context.database.clone(), subscriber), losses };
        Ok(events.add_to(builder.serve(EventSinkServiceServer::new(sink))))
    }
}

/// A sink that loses requests before, and responses after, they take effect.
struct LossySink {
    inner: Sink,
    losses: Losses,
}

#[tonic::async_trait]
impl EventSinkService for LossySink {
    async fn deliver(&self, request: Request<DeliverRequest>) -> Result<Response<DeliverResponse>, Status> {
        let lost = self.losses.draws_loss();
        if lost && fastrand::bool() {
            return Err(lost_status().await);
        }
        let result = self.inner.deliver(request).await;
        if lost { Err(lost_status().await) } else { result }
    }
}

async fn lost_status() -> Status {
    if fastrand::u8(0..SILENT_LOSS_ONE_IN) == 0 {
        sleep(SILENCE_TIME).await;
    }
    Status::unavailable("lost on purpose")
}

/// A subscriber that can reject events and can lose its record of delivered
/// ones.
struct LossySubscriber {
    losses: Losses,
    rejects: bool,
}

#[tonic::async_trait]
impl Subscriber for LossySubscriber {
    async fn handle(&self, open: &mut Transaction, event: &Event) -> Result<(), HandleError> {
        let rejected = || Error::corrupt("event", "lost on purpose");
        let lost = self.rejects && self.losses.draws_loss();
        if lost && fastrand::bool() {
            return Err(rejected().into());
        }
        Notifier.handle(open, event).await?;
        if self.losses.sink_forgets {
            let id = event.event_id.as_str().into();
            open.execute("DELETE FROM inbox WHERE event_id = $1", &[id]).await?;
        }
        if lost { Err(rejected().into()) } else { Ok(()) }
    }
}
