//! Shows what was not delivered.

use mesh_proto::shop::events::v1::{
    Backlog, GetBacklogRequest, GetBacklogResponse, ListParkedEventsRequest, ListParkedEventsResponse,
    ParkedEvent, RetryParkedEventRequest, RetryParkedEventResponse,
    event_log_service_server::EventLogService,
};
use tonic::{Code, Request, Response, Status};

use super::{
    Outbox,
    inbox::{Inbox, Retried},
    queue::{ARRIVED, SENT, Table},
};
use crate::{
    auth::Caller,
    database::{Database, Error},
    error::{Fault, invalid},
};

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
            found = SENT.backlogs(&self.database).await?;
            for subscriber in outbox.addressees() {
                if !found.iter().any(|backlog| backlog.subscriber == *subscriber) {
                    found.push(Backlog { subscriber: (*subscriber).to_owned(), ..Backlog::default() });
                }
            }
        }
        if let Some(inbox) = &self.inbox {
            let mut own = ARRIVED.backlogs(&self.database).await?.pop().unwrap_or_default();
            own.parked += inbox.how_many_parked().await?;
            if own.waiting > 0 || own.parked > 0 {
                found.push(Backlog { subscriber: self.name.to_owned(), ..own });
            }
        }
        found.sort_by(|a, b| a.subscriber.cmp(&b.subscriber));
        Ok(GetBacklogResponse { backlogs: found })
    }

    async fn parked(&self) -> Result<ListParkedEventsResponse, Error> {
        let mut events = Vec::new();
        if let Some(inbox) = &self.inbox {
            events = inbox.parked(self.name).await?;
            events.extend(ARRIVED.parked(&self.database).await?);
        }
        if self.outbox.is_some() {
            events.extend(SENT.parked(&self.database).await?);
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
                Retried::NotParked => self.unpark(&ARRIVED, id, subscriber).await,
                Retried::Never(why) => {
                    let words = format!("event {id} can still not be taken: {why}");
                    Err(Fault::new(Code::FailedPrecondition, "EVENT_NOT_TAKEN", words))
                }
            };
        }
        match self.outbox {
            Some(_) => self.unpark(&SENT, id, subscriber).await,
            None => Err(not_found(id, subscriber)),
        }
    }

    async fn unpark(&self, table: &Table, id: &str, subscriber: &str) -> Result<(), Fault> {
        match table.unpark(&self.database, id, subscriber).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(not_found(id, subscriber)),
            Err(why) => Err(why.fault()),
        }
    }
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
