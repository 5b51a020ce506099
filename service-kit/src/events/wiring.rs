//! What sending and taking events adds to a service.

use std::sync::Arc;

use futures_util::FutureExt;
use mesh_proto::shop::events::v1::{
    event_log_service_server::EventLogServiceServer, event_sink_service_server::EventSinkServiceServer,
};

use super::{
    Outbox, Subscriber,
    inbox::Inbox,
    log::Log,
    nats::{Arrivals, follow},
    queue::{ARRIVED, Queue},
    relay::{Relay, RelaySettings, relay},
    sink::Sink,
};
use crate::service::{Base, Serving};

/// The part of a service that sends and takes events.
///
/// ```ignore
/// let outbox = Outbox::of(base, NAME, &["user-service"]);
/// let serving = Events::of(base, NAME).send(outbox).take(&["order-service"], subscriber).add_to(serving);
/// ```
///
/// The schema of a service that sends has [`OUTBOX`](super::OUTBOX) and
/// [`LEASES`](crate::lease::LEASES), of one that takes
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
    /// Of the service `name`, which neither sends nor takes any yet.
    #[must_use]
    pub fn of(base: &Base, name: &'static str) -> Self {
        Self { base: base.clone(), name, outbox: None, inbox: None, settings: RelaySettings::default() }
    }

    /// Sends the events of `outbox`.
    #[must_use]
    pub fn send(self, outbox: Outbox) -> Self {
        Self { outbox: Some(outbox), ..self }
    }

    /// Takes the events of the services `sources`.
    #[must_use]
    pub fn take(self, sources: &'static [&'static str], subscriber: impl Subscriber) -> Self {
        let inbox = Inbox::new(self.base.database.clone(), Arc::new(subscriber));
        Self { inbox: Some((inbox, sources)), ..self }
    }

    /// Relays as these settings say.
    #[must_use]
    pub fn settings(self, settings: RelaySettings) -> Self {
        Self { settings, ..self }
    }

    /// Adds to `serving` the sink, the log, and what goes on besides.
    #[must_use]
    pub fn add_to(self, serving: Serving) -> Serving {
        let Self { base, name, outbox, inbox, settings } = self;
        let (inbox, sources) = inbox.unzip();
        let log = Log { name, database: base.database.clone(), outbox, inbox: inbox.clone() };
        let mut serving = serving.serve(EventLogServiceServer::new(log));
        if let Some(inbox) = inbox {
            if let Some(meter) = base.mesh.meter() {
                inbox.tally().tell(meter, false, name, "shop.sink");
            }
            serving = serving
                .serve(EventSinkServiceServer::new(Sink::over(name, inbox.clone())))
                .work(inbox.clone().clean());
            if let Some(nats) = &base.nats {
                let sources = sources.unwrap_or_default();
                // Those that wait are taken by whoever may, those that come
                // written down by whoever may: seldom the same replica.
                let queue = Queue::new(base.database.clone(), &ARRIVED, name);
                let taking = Relay::new(&base, queue, Arrivals(inbox), settings);
                let leave = draining(&serving).shared();
                serving = serving
                    .work_that_leaves(follow(
                        nats.clone(),
                        base.database.clone(),
                        name,
                        sources,
                        leave.clone(),
                    ))
                    .work_that_leaves(taking.until(leave));
            }
        }
        if let Some(outbox) = outbox {
            let leave = draining(&serving);
            serving = serving.work_that_leaves(relay(outbox, base, settings, leave));
        }
        serving
    }
}

fn draining(serving: &Serving) -> impl Future<Output = ()> + Send + 'static {
    let drain = serving.drain();
    async move { drain.draining().await }
}
