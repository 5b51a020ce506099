//! The log of events that were not delivered.

use mesh_proto::shop::events::v1::{
    Backlog, GetBacklogRequest, GetBacklogResponse, ListParkedEventsRequest, ListParkedEventsResponse,
    ParkedEvent, RetryParkedEventRequest, RetryParkedEventResponse,
    event_log_service_server::EventLogService,
};
use tonic::{Code, Request, Response, Status};

use super::{
    Outbox,
    inbox::{Inbox, RetryOutcome},
    queue::{ARRIVALS_TABLE, EventTable, OUTBOX_TABLE},
};
use crate::{
    auth::Caller,
    database::{Database, Error},
    error::{Fault, invalid},
};

/// The maximum number of parked events in a response.
const MAX_PARKED_EVENTS: usize = 1_000;
const MAX_ID_LENGTH: usize = 128;

/// The server of `EventLogService`.
#[derive(Clone, Debug)]
pub(super) struct EventLog {
    pub(super) name: &'static str,
    pub(super) database: Database,
    pub(super) outbox: Option<Outbox>,
    pub(super) inbox: Option<Inbox>,
}

impl EventLog {
    async fn backlog(&self) -> Result<GetBacklogResponse, Error> {
        let mut found = Vec::new();
        if let Some(outbox) = &self.outbox {
            found = OUTBOX_TABLE.backlogs(&self.database).await?;
            for subscriber in outbox.recipients() {
                if !found.iter().any(|backlog| backlog.subscriber == *subscriber) {
                    found.push(Backlog { subscriber: (*subscriber).to_owned(), ..Backlog::default() });
                }
            }
        }
        if let Some(inbox) = &self.inbox {
            let mut own = ARRIVALS_TABLE.backlogs(&self.database).await?.pop().unwrap_or_default();
            own.parked += inbox.count_parked().await?;
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
            events.extend(ARRIVALS_TABLE.parked(&self.database).await?);
        }
        if self.outbox.is_some() {
            events.extend(OUTBOX_TABLE.parked(&self.database).await?);
        }
        // Ids begin with their time of creation.
        events.sort_by(|a, b| id(a).cmp(id(b)));
        events.truncate(MAX_PARKED_EVENTS);
        Ok(ListParkedEventsResponse { events })
    }

    async fn retry(&self, request: &RetryParkedEventRequest) -> Result<(), Fault> {
        let (id, subscriber) = (request.event_id.as_str(), request.subscriber.as_str());
        if id.is_empty() || id.len() > MAX_ID_LENGTH || id.contains('\0') {
            return Err(invalid("event_id", format!("must have 1 to {MAX_ID_LENGTH} characters")));
        }
        if subscriber.len() > MAX_ID_LENGTH || subscriber.contains('\0') {
            return Err(invalid("subscriber", format!("must have 1 to {MAX_ID_LENGTH} characters")));
        }
        if let Some(inbox) = self.inbox.as_ref().filter(|_| subscriber == self.name) {
            return match inbox.retry(id).await.map_err(|why| why.fault())? {
                RetryOutcome::Handled => Ok(()),
                RetryOutcome::NotParked => self.unpark(&ARRIVALS_TABLE, id, subscriber).await,
                RetryOutcome::Failed(why) => {
                    let words = format!("event {id} still cannot be handled: {why}");
                    Err(Fault::new(Code::FailedPrecondition, "EVENT_NOT_TAKEN", words))
                }
            };
        }
        match self.outbox {
            Some(_) => self.unpark(&OUTBOX_TABLE, id, subscriber).await,
            None => Err(not_found(id, subscriber)),
        }
    }

    async fn unpark(&self, table: &EventTable, id: &str, subscriber: &str) -> Result<(), Fault> {
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
impl EventLogService for EventLog {
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
