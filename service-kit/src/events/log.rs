//! Shows what was not delivered.

use mesh_proto::shop::events::v1::{
    Backlog, Event, GetBacklogRequest, GetBacklogResponse, ListParkedEventsRequest, ListParkedEventsResponse,
    ParkedEvent, RetryParkedEventRequest, RetryParkedEventResponse,
    event_log_service_server::EventLogService,
};
use prost::Message;
use tonic::{Code, Request, Response, Status};

use super::{
    CHANGED, Outbox,
    inbox::{Inbox, Retried},
    queue::backlogs,
};
use crate::{
    auth::Caller,
    database::{Database, Error, Row},
    error::{Fault, invalid},
};

const PARKED: &str = "SELECT subscriber, event_id, event, parked, attempts FROM outbox \
     WHERE parked IS NOT NULL ORDER BY position LIMIT 1000";

const UNPARK: &str = "UPDATE outbox SET parked = NULL, attempts = 0, due_time = 0 \
     WHERE event_id = $1 AND subscriber = $2 AND parked IS NOT NULL";

/// The most that one answer shows.
const MOST: usize = 1_000;
/// The longest id that an event is parked under.
const ID_MAX: usize = 128;

/// Serves `EventLogService`.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pub(super) name: &'static str,
    pub(super) database: Database,
    pub(super) outbox: Option<Outbox>,
    pub(super) inbox: Option<Inbox>,
}

impl Log {
    async fn backlog(&self) -> Result<GetBacklogResponse, Error> {
        let mut found = Vec::new();
        if let Some(outbox) = &self.outbox {
            found = backlogs(&self.database).await?;
            for subscriber in outbox.subscribers {
                if !found.iter().any(|backlog| backlog.subscriber == *subscriber) {
                    found.push(Backlog { subscriber: (*subscriber).to_owned(), ..Backlog::default() });
                }
            }
        }
        if let Some(inbox) = &self.inbox {
            let parked = inbox.how_many_parked().await?;
            if parked > 0 {
                found.push(Backlog { subscriber: self.name.to_owned(), parked, ..Backlog::default() });
            }
        }
        found.sort_by(|a, b| a.subscriber.cmp(&b.subscriber));
        Ok(GetBacklogResponse { backlogs: found })
    }

    async fn parked(&self) -> Result<ListParkedEventsResponse, Error> {
        let mut events = Vec::new();
        if let Some(inbox) = &self.inbox {
            events = inbox.parked(self.name).await?;
        }
        if self.outbox.is_some() {
            for row in self.database.rows(PARKED, &[]).await? {
                events.push(parked(&row)?);
            }
        }
        // Ids begin with the time at which they were made.
        events.sort_by(|a, b| id(a).cmp(id(b)));
        events.truncate(MOST);
        Ok(ListParkedEventsResponse { events })
    }

    async fn retry(&self, request: &RetryParkedEventRequest) -> Result<(), Fault> {
        let (id, subscriber) = (request.event_id.as_str(), request.subscriber.as_str());
        if id.is_empty() || id.len() > ID_MAX || id.contains('\0') {
            return Err(invalid("event_id", format!("must have 1 to {ID_MAX} characters")));
        }
        if subscriber.len() > ID_MAX || subscriber.contains('\0') {
            return Err(invalid("subscriber", format!("must have 1 to {ID_MAX} characters")));
        }
        if let Some(inbox) = self.inbox.as_ref().filter(|_| subscriber == self.name) {
            return match inbox.retry(id).await.map_err(|why| why.fault())? {
                Retried::Taken => Ok(()),
                Retried::NotParked => Err(not_found(id, subscriber)),
                Retried::Never(why) => {
                    let words = format!("event {id} can still not be taken: {why}");
                    Err(Fault::new(Code::FailedPrecondition, "EVENT_NOT_TAKEN", words))
                }
            };
        }
        match self.outbox {
            Some(_) if self.unpark(id, subscriber).await.map_err(|why| why.fault())? => Ok(()),
            _ => Err(not_found(id, subscriber)),
        }
    }

    async fn unpark(&self, id: &str, subscriber: &str) -> Result<bool, Error> {
        let mut unit = self.database.unit();
        loop {
            let mut open = unit.begin().await?;
            let mut done = open.execute(UNPARK, &[id.into(), subscriber.into()]).await;
            if matches!(done, Ok(1..)) {
                done = open.changed(CHANGED).await.map(|()| 1);
            }
            if let Some(done) = unit.end(open, done).await {
                return Ok(done? > 0);
            }
        }
    }
}

fn parked(row: &Row) -> Result<ParkedEvent, Error> {
    let bytes: Vec<u8> = row.get("event")?;
    let mut event = Event::decode(bytes.as_slice()).unwrap_or_default();
    event.event_id = row.get("event_id")?;
    let (subscriber, reason) = (row.get("subscriber")?, row.get("parked")?);
    Ok(ParkedEvent { event: Some(event), subscriber, reason, attempts: row.get("attempts")? })
}

fn id(parked: &ParkedEvent) -> &str {
    parked.event.as_ref().map_or("", |event| &event.event_id)
}

fn not_found(id: &str, subscriber: &str) -> Fault {
    let words = format!("no event {id} is parked for {subscriber}");
    Fault::new(Code::NotFound, "EVENT_NOT_FOUND", words)
}

#[tonic::async_trait]
impl EventLogService for Log {
    async fn get_backlog(
        &self,
        request: Request<GetBacklogRequest>,
    ) -> Result<Response<GetBacklogResponse>, Status> {
        Caller::of(&request).map_err(|fault| fault.into_status(self.name))?;
        let found = self.backlog().await.map_err(|why| why.fault().into_status(self.name))?;
        Ok(Response::new(found))
    }

    async fn list_parked_events(
        &self,
        request: Request<ListParkedEventsRequest>,
    ) -> Result<Response<ListParkedEventsResponse>, Status> {
        Caller::of(&request).map_err(|fault| fault.into_status(self.name))?;
        let found = self.parked().await.map_err(|why| why.fault().into_status(self.name))?;
        Ok(Response::new(found))
    }

    async fn retry_parked_event(
        &self,
        request: Request<RetryParkedEventRequest>,
    ) -> Result<Response<RetryParkedEventResponse>, Status> {
        Caller::of(&request).map_err(|fault| fault.into_status(self.name))?;
        self.retry(request.get_ref()).await.map_err(|fault| fault.into_status(self.name))?;
        Ok(Response::new(RetryParkedEventResponse {}))
    }
}
