//! A producer and a consumer of events. The consumer's effect is a row in a
//! journal that does not detect duplicates.

use std::{net::SocketAddr, time::Duration};

use mesh_proto::shop::events::v1::{
    Event, ListParkedEventsRequest, ParkedEvent, ProductDeleted, RetryParkedEventRequest, event::Payload,
    event_log_service_client::EventLogServiceClient,
};
use registry_client::Mesh;
use service_kit::{
    auth::Auth,
    database::{Database, Error, Migration, Migrations, Transaction},
    events::{Events, HandleError, INBOX, OUTBOX, Outbox, RelaySettings, Subscriber},
    lease::LEASES,
    nats::Nats,
    service::{self, Service, ServiceBuilder, ServiceContext},
    testing::{Callers, NatsServer, Replica, TestDatabase, mesh_of, mesh_to},
};
use tokio::net::TcpListener;
use tonic::Status;

pub(crate) const PRODUCER: &str = "producer";
pub(crate) const CONSUMER: &str = "consumer";

/// Short intervals for tests.
pub(crate) fn settings() -> RelaySettings {
    let mut settings = RelaySettings::default();
    settings.poll_interval = Duration::from_millis(20);
    settings.lease = Duration::from_secs(2);
    settings.delivery_timeout = Duration::from_secs(1);
    settings.initial_backoff = Duration::from_millis(5);
    settings.max_backoff = Duration::from_millis(20);
    settings.max_unavailable_backoff = Duration::from_millis(100);
    settings
}

const THINGS: Migration =
    Migration { name: "things", sql: "CREATE TABLE things (name TEXT PRIMARY KEY, version BIGINT NOT NULL)" };

pub(crate) struct Producer;

impl Service for Producer {
    const NAME: &'static str = PRODUCER;
    const VERSION: &'static str = "1";
    const MIGRATIONS: Migrations = Migrations {
        sqlite: &[THINGS, OUTBOX.sqlite[0], LEASES.sqlite[0]],
        postgres: &[THINGS, OUTBOX.postgres[0], LEASES.postgres[0]],
    };

    async fn build(
        &self,
        context: &ServiceContext,
        builder: ServiceBuilder,
    ) -> anyhow::Result<ServiceBuilder> {
        Ok(Events::of(context, PRODUCER).send(outbox(context)).settings(settings()).add_to(builder))
    }
}

pub(crate) fn outbox(context: &ServiceContext) -> Outbox {
    Outbox::of(context, PRODUCER, &[CONSUMER])
}

const JOURNAL_SQLITE: Migration = Migration {
    name: "journal",
    sql: "CREATE TABLE journal (position INTEGER PRIMARY KEY AUTOINCREMENT, thing TEXT NOT NULL, \
          sequence INTEGER NOT NULL) STRICT; CREATE TABLE repaired (thing TEXT PRIMARY KEY) STRICT",
};
const JOURNAL_POSTGRES: Migration = Migration {
    name: "journal",
    sql: "CREATE TABLE journal (position BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
          thing TEXT NOT NULL, sequence BIGINT NOT NULL); CREATE TABLE repaired (thing TEXT PRIMARY KEY)",
};

pub(crate) struct Consumer;

impl Service for Consumer {
    const NAME: &'static str = CONSUMER;
    const VERSION: &'static str = "1";
    const MIGRATIONS: Migrations = Migrations {
        sqlite: &[JOURNAL_SQLITE, INBOX.sqlite[0], LEASES.sqlite[0]],
        postgres: &[JOURNAL_POSTGRES, INBOX.postgres[0], LEASES.postgres[0]],
    };

    async fn build(
        &self,
        context: &ServiceContext,
        builder: ServiceBuilder,
    ) -> anyhow::Result<ServiceBuilder> {
        Ok(Events::of(context, CONSUMER).receive(&[PRODUCER], Journal).settings(settings()).add_to(builder))
    }
}

/// A subscriber that records every event. The name of a thing selects the failure.
#[derive(Debug)]
pub(crate) struct Journal;

#[tonic::async_trait]
impl Subscriber for Journal {
    async fn handle(&self, open: &mut Transaction, event: &Event) -> Result<(), HandleError> {
        let thing = event.aggregate_id.as_str();
        const NOTE: &str = "INSERT INTO journal (thing, sequence) VALUES ($1, $2)";
        open.execute(NOTE, &[thing.into(), event.sequence.into()]).await?;
        if open.row("SELECT thing FROM repaired WHERE thing = $1", &[thing.into()]).await?.is_some() {
            return Ok(());
        }
        if thing.starts_with("flaky") && fastrand::u8(0..10) < 3 {
            return Err(Error::corrupt("thing", "it fails three times of ten").into());
        }
        if thing.starts_with("stuck") && event.sequence == 2 {
            return Err(Error::corrupt("thing", "its second event does not fit").into());
        }
        if thing.starts_with("panicking") && event.sequence == 2 {
            panic!("its second event is too much");
        }
        if thing.starts_with("poison") && event.sequence == 2 {
            return Err(HandleError::Permanent("its second event is poison".to_owned()));
        }
        Ok(())
    }
}

/// The databases of both services, and the transport between them.
pub(crate) struct Bed {
    sent: TestDatabase,
    taken: TestDatabase,
    /// The producer's database, opened by the test.
    pub(crate) producer: Database,
    pub(crate) consumer: Database,
    nats: Option<Nats>,
    /// The auth of the producer and of the consumer.
    auths: [Auth; 2],
    pub(crate) server: Option<NatsServer>,
}

impl Bed {
    /// Over the mesh.
    pub(crate) async fn new(sent: TestDatabase) -> Self {
        let taken = sent.another().await;
        let producer = open::<Producer>(&sent).await;
        let consumer = open::<Consumer>(&taken).await;
        Self { sent, taken, producer, consumer, nats: None, auths: [Auth::off(), Auth::off()], server: None }
    }

    /// Over NATS.
    pub(crate) async fn over_nats(sent: TestDatabase) -> Self {
        let server = NatsServer::start();
        let nats = Nats::connect(&server.url(), "test").await.unwrap();
        Self { nats: Some(nats), server: Some(server), ..Self::new(sent).await }
    }

    /// With authentication.
    pub(crate) fn authenticated(self, callers: &Callers) -> Self {
        Self { auths: [callers.auth(PRODUCER), callers.auth(CONSUMER)], ..self }
    }

    pub(crate) async fn consume(&self) -> Replica {
        let context = self.consumers().await;
        Replica::start(|listener, shutdown| service::serve(Consumer, context, listener, shutdown)).await
    }

    async fn consumers(&self) -> ServiceContext {
        let auth = self.auths[1].clone();
        ServiceContext { auth, ..self.on(mesh(&[]), open::<Consumer>(&self.taken).await) }
    }

    /// A consumer that listens there, and not at its replica's address.
    pub(crate) async fn consume_at(&self, there: TcpListener) -> Replica {
        let context = self.consumers().await;
        Replica::start(|_, shutdown| service::serve(Consumer, context, there, shutdown)).await
    }

    pub(crate) async fn produce(&self, consumers: &[SocketAddr]) -> Replica {
        self.produce_by(mesh(consumers)).await
    }

    pub(crate) async fn produce_by(&self, mesh: Mesh) -> Replica {
        let auth = self.auths[0].clone();
        let context = ServiceContext { auth, ..self.on(mesh, open::<Producer>(&self.sent).await) };
        Replica::start(|listener, shutdown| service::serve(Producer, context, listener, shutdown)).await
    }

    pub(crate) fn context(&self, consumers: &[SocketAddr]) -> ServiceContext {
        self.on(mesh(consumers), self.producer.clone())
    }

    fn on(&self, mesh: Mesh, database: Database) -> ServiceContext {
        ServiceContext { nats: self.nats.clone(), ..ServiceContext::open(mesh, database) }
    }

    /// The subscriber of the outbox rows.
    pub(crate) fn subscriber(&self) -> &'static str {
        if self.nats.is_some() { "nats" } else { CONSUMER }
    }

    /// The replica that parks an event that keeps failing.
    pub(crate) fn parking_replica<'a>(&self, producer: &'a Replica, consumer: &'a Replica) -> &'a Replica {
        if self.nats.is_some() { consumer } else { producer }
    }

    /// Changes a thing and appends the event.
    pub(crate) async fn change(&self, thing: &str) {
        change(&self.context(&[]), thing).await;
    }

    /// The sequences of a thing's events in the order of their effects.
    pub(crate) async fn journal(&self, thing: &str) -> Vec<i64> {
        const READ: &str = "SELECT sequence FROM journal WHERE thing = $1 ORDER BY position";
        let rows = self.consumer.rows(READ, &[thing.into()]).await.unwrap();
        rows.iter().map(|row| row.get("sequence").unwrap()).collect()
    }

    /// Waits until the journal of a thing has so many entries, and compares it.
    pub(crate) async fn wait_for(&self, thing: &str, expected: impl IntoIterator<Item = i64>) {
        let expected: Vec<i64> = expected.into_iter().collect();
        let mut last = Vec::new();
        let same = until(async || {
            last = self.journal(thing).await;
            last.len() >= expected.len()
        });
        let came = same.await;
        assert_eq!(last, expected, "the journal of {thing}");
        assert!(came);
    }

    /// Waits until the outbox is empty.
    pub(crate) async fn drained(&self) {
        let mut left = 0;
        let empty = until(async || {
            left = self.count("SELECT count(*) AS n FROM outbox WHERE parked IS NULL").await;
            left == 0
        });
        assert!(empty.await, "{left} events wait");
    }

    pub(crate) async fn count(&self, sql: &'static str) -> i64 {
        self.producer.row(sql, &[]).await.unwrap().unwrap().get("n").unwrap()
    }

    /// Makes all further events of this thing succeed.
    pub(crate) async fn repair(&self, thing: &str) {
        let mut open = self.consumer.begin().await.unwrap();
        open.execute("INSERT INTO repaired (thing) VALUES ($1)", &[thing.into()]).await.unwrap();
        open.commit().await.unwrap();
    }
}

async fn open<S: Service>(database: &TestDatabase) -> Database {
    Database::open(database.url(), &S::MIGRATIONS).await.unwrap()
}

fn mesh(consumers: &[SocketAddr]) -> Mesh {
    mesh_of([(CONSUMER, consumers.to_vec())])
}

/// Changes a thing and appends the event.
pub(crate) async fn change(context: &ServiceContext, thing: &str) {
    let mut unit = context.database.unit();
    loop {
        let mut open = unit.begin().await.unwrap();
        let done = write_change(&mut open, &outbox(context), thing).await;
        if let Some(done) = unit.end(open, done).await {
            return done.unwrap();
        }
    }
}

pub(crate) async fn write_change(open: &mut Transaction, outbox: &Outbox, thing: &str) -> Result<(), Error> {
    const CHANGE: &str = "INSERT INTO things (name, version) VALUES ($1, 1) \
         ON CONFLICT (name) DO UPDATE SET version = things.version + 1 RETURNING version";
    let version = open.row(CHANGE, &[thing.into()]).await?.unwrap().get("version")?;
    let payload = Payload::ProductDeleted(ProductDeleted { product_id: thing.to_owned() });
    outbox.append(open, thing, version, payload).await
}

/// Waits up to 30 s for `condition`; returns false on timeout.
pub(crate) async fn until(mut condition: impl AsyncFnMut() -> bool) -> bool {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.is_ok()
}

pub(crate) async fn parked(of: &Replica) -> Vec<ParkedEvent> {
    let mut client = EventLogServiceClient::new(mesh_to([of.address]).channel("any"));
    client.list_parked_events(ListParkedEventsRequest {}).await.unwrap().into_inner().events
}

pub(crate) async fn retry(of: &Replica, parked: &ParkedEvent) -> Result<(), Status> {
    let mut client = EventLogServiceClient::new(mesh_to([of.address]).channel("any"));
    let event_id = parked.event.as_ref().unwrap().event_id.clone();
    let request = RetryParkedEventRequest { event_id, subscriber: parked.subscriber.clone() };
    client.retry_parked_event(request).await.map(drop)
}

/// Runs each case, an `async fn(Bed)`, over the mesh and over NATS, on both
/// databases.
macro_rules! over_every_transport {
    ($($case:ident),+ $(,)?) => {
        mod over_mesh {
            $(async fn $case(database: service_kit::testing::TestDatabase) {
                super::$case($crate::events::bed::Bed::new(database).await).await;
            })+
            service_kit::on_both_databases!($($case),+);
        }
        mod over_nats {
            $(async fn $case(database: service_kit::testing::TestDatabase) {
                super::$case($crate::events::bed::Bed::over_nats(database).await).await;
            })+
            service_kit::on_both_databases!($($case),+);
        }
    };
}
pub(crate) use over_every_transport;
