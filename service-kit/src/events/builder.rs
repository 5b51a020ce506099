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
use crate::service::{Base, Serving};

/// The part of a service that sends and receives events.
///
/// ```ignore
/// let outbox = Outbox::of(base, NAME, &["user-service"]);
/// let serving = Events::of(base, NAME).send(outbox).receive(&["order-service"], subscriber).add_to(serving);
/// ```
///
/// The schema of a service that sends has [`OUTBOX`](super::OUTBOX) and
/// [`LEASES`](crate::lease::LEASES), of one that receives
/// [`INBOX`](super::INBOX) and [`LEASES`](crate::lease::LEASES).
#[derive(Debug)]
pub struct Events {
    base: Base,
    name: &'static str,
    outbox: Option<Outbox>,
    inbox: Option<(Inbox, &'static [&'static str])>,
    settings: RelaySettings,
}

impl Events {
    /// Begins with the service `name`, which neither sends nor receives any yet.
    #[must_use]
    pub fn of(base: &Base, name: &'static str) -> Self {
        Self { base: base.clone(), name, outbox: None, inbox: None, settings: RelaySettings::default() }
    }

    /// Sends the events of `outbox`.
    #[must_use]
    pub fn send(self, outbox: Outbox) -> Self {
        Self { outbox: Some(outbox), ..self }
    }

    /// Receives the events of the services `sources`.
    #[must_use]
    pub fn receive(self, sources: &'static [&'static str], subscriber: impl Subscriber) -> Self {
        let inbox = Inbox::new(self.base.database.clone(), Arc::new(subscriber));
        Self { inbox: Some((inbox, sources)), ..self }
    }

    /// Sets the settings of the relays.
    #[must_use]
    pub fn settings(self, settings: RelaySettings) -> Self {
        Self { settings, ..self }
    }

    /// Adds the sink, the event log and the background tasks to `serving`.
    #[must_use]
    pub fn add_to(self, serving: Serving) -> Serving {
        let Self { base, name, outbox, inbox, settings } = self;
        let (inbox, sources) = inbox.unzip();
        let log = EventLog { name, database: base.database.clone(), outbox, inbox: inbox.clone() };
        let mut serving = serving.serve(EventLogServiceServer::new(log));
        if let Some(inbox) = inbox {
            if let Some(meter) = base.mesh.meter() {
                inbox.counters().register(meter, false, name, "shop.sink");
            }
            serving = serving
                .serve(EventSinkServiceServer::new(Sink::with_inbox(name, inbox.clone())))
                .work(inbox.clone().run_cleanup());
            if let Some(nats) = &base.nats {
                let sources = sources.unwrap_or_default();
                // Two leases: the replica that stores messages from the stream is
                // seldom the one that handles the stored events.
                let queue = Queue::new(base.database.clone(), &ARRIVALS_TABLE, name);
                let handling = Relay::new(&base, queue, ArrivalsTransport(inbox), settings);
                let stop = draining(&serving).shared();
                serving = serving
                    .work_that_leaves(consume(
                        nats.clone(),
                        base.database.clone(),
                        name,
                        sources,
                        stop.clone(),
                    ))
                    .work_that_leaves(handling.run_until(stop));
            }
        }
        if let Some(outbox) = outbox {
            let stop = draining(&serving);
            serving = serving.work_that_leaves(relay(outbox, base, settings, stop));
        }
        serving
    }
}

fn draining(serving: &Serving) -> impl Future<Output = ()> + Send + 'static {
    let drain = serving.drain();
    async move { drain.draining().await }
}
