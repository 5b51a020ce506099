//! The builder for services that send or receive events.

use std::sync::Arc;

use futures_util::FutureExt;
use mesh_proto::shop::events::v1::{
    event_log_service_server::EventLogServiceServer, event_sink_service_server::EventSinkServiceServer,
};

use super::{
    Outbox, Subscriber,
    event_log::EventLog,
    inbox::Inbox,
    nats::{ArrivalsTransport, consume},
    queue::{ARRIVALS_TABLE, Queue},
    relay::{Relay, RelaySettings, relay},
    sink::Sink,
};
use crate::service::{ServiceBuilder, ServiceContext};

/// The part of a service that sends and receives events.
///
/// ```ignore
/// let outbox = Outbox::of(context, NAME, &["user-service"]);
/// let builder = Events::of(context, NAME).send(outbox).receive(&["order-service"], subscriber).add_to(builder);
/// ```
///
/// The schema of a service that sends has [`OUTBOX`](super::OUTBOX) and
/// [`LEASES`](crate::lease::LEASES), of one that receives
/// [`INBOX`](super::INBOX) and [`LEASES`](crate::lease::LEASES).
#[derive(Debug)]
pub struct Events {
    context: ServiceContext,
    name: &'static str,
    outbox: Option<Outbox>,
    inbox: Option<(Inbox, &'static [&'static str])>,
    settings: RelaySettings,
}

impl Events {
    /// Begins with the service `name`, which neither sends nor receives any yet.
    #[must_use]
    pub fn of(context: &ServiceContext, name: &'static str) -> Self {
        Self { context: context.clone(), name, outbox: None, inbox: None, settings: RelaySettings::default() }
    }

    /// Sends the events of `outbox`.
    #[must_use]
    pub fn send(self, outbox: Outbox) -> Self {
        Self { outbox: Some(outbox), ..self }
    }

    /// Receives the events of the services `sources`.
    #[must_use]
    pub fn receive(self, sources: &'static [&'static str], subscriber: impl Subscriber) -> Self {
        let inbox = Inbox::new(self.context.database.clone(), Arc::new(subscriber));
        Self { inbox: Some((inbox, sources)), ..self }
    }

    /// Sets the settings of the relays.
    #[must_use]
    pub fn settings(self, settings: RelaySettings) -> Self {
        Self { settings, ..self }
    }

    /// Adds the sink, the event log and the background tasks to `builder`.
    #[must_use]
    pub fn add_to(self, builder: ServiceBuilder) -> ServiceBuilder {
        let Self { context, name, outbox, inbox, settings } = self;
        let (inbox, sources) = inbox.unzip();
        let log = EventLog { name, database: context.database.clone(), outbox, inbox: inbox.clone() };
        let mut builder = builder.serve(EventLogServiceServer::new(log));
        if let Some(inbox) = inbox {
            if let Some(meter) = context.mesh.meter() {
                inbox.counters().register(meter, false, name, "shop.sink");
            }
            builder = builder
                .serve(EventSinkServiceServer::new(Sink::with_inbox(name, inbox.clone())))
                .background_task(inbox.clone().run_cleanup());
            if let Some(nats) = &context.nats {
                let sources = sources.unwrap_or_default();
                // Two leases: the replica that stores messages from the stream is
                // seldom the one that handles the stored events.
                let queue = Queue::new(context.database.clone(), &ARRIVALS_TABLE, name);
                let handling = Relay::new(&context, queue, ArrivalsTransport(inbox), settings);
                let stop = draining(&builder).shared();
                builder = builder
                    .drainable_task(consume(
                        nats.clone(),
                        context.database.clone(),
                        name,
                        sources,
                        stop.clone(),
                    ))
                    .drainable_task(handling.run_until(stop));
            }
        }
        if let Some(outbox) = outbox {
            let stop = draining(&builder);
            builder = builder.drainable_task(relay(outbox, context, settings, stop));
        }
        builder
    }
}

fn draining(builder: &ServiceBuilder) -> impl Future<Output = ()> + Send + 'static {
    let drain = builder.drain();
    async move { drain.draining().await }
}
