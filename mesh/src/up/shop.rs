//! The running shop: waits until it is ready, shows it, and says what happens
//! to it until it is told to stop.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use futures_util::{Stream, StreamExt, stream::select_all};
use product_service::sample_products;
use registry_client::{
    consul::ConsulResolver,
    instance::ServiceName,
    resolve::{Resolution, Resolver},
};
use tokio::{sync::mpsc, time::sleep};
use tokio_stream::wrappers::WatchStream;

use crate::{
    found,
    out::say,
    services::Service,
    state::{MeshFile, Owned},
    up::{
        access::Access,
        banner::Banner,
        children::{Event, tail},
        overview::{Overview, Seen},
        registry::{self, Registry},
        seed::{Customer, seed},
        stop::Stop,
    },
};

/// How long everything may take to come up.
const START_LIMIT: Duration = Duration::from_secs(60);
/// After how long of waiting it is said what is waited for.
const SILENCE: Duration = Duration::from_secs(5);
/// How much of a log is shown when its process does not come up.
const TAIL: usize = 8;

/// The shop that one `mesh up` runs.
#[derive(Debug)]
pub(crate) struct Shop<'a> {
    pub(crate) owned: &'a Owned,
    pub(crate) registry: &'a Registry,
    pub(crate) overview: Overview,
    /// When `mesh up` began, to tell how long it took, and as a date.
    pub(crate) began: Instant,
    pub(crate) started: String,
    /// Whether callers are asked who they are.
    access: Access,
    /// Whether the registry is asked with a token.
    token: bool,
    seeded: bool,
    /// Who can buy, once it is seeded.
    customer: Option<Customer>,
    ready: bool,
    /// What mesh.json says now.
    written: Option<MeshFile>,
}

impl<'a> Shop<'a> {
    /// A shop whose processes are being started.
    pub(crate) fn new(
        owned: &'a Owned,
        registry: &'a Registry,
        overview: Overview,
        (began, started): (Instant, String),
        (access, token): (Access, bool),
    ) -> Self {
        let (seeded, ready) = (false, false);
        let (customer, written) = (None, None);
        Self { owned, registry, overview, began, started, access, token, seeded, customer, ready, written }
    }

    /// Goes on until `stop`.
    ///
    /// # Errors
    /// When a process does not come up.
    pub(crate) async fn watch(mut self, mut events: mpsc::Receiver<Event>, stop: &Stop) -> Result<()> {
        let mesh = found::mesh(&self.registry.url)?;
        // The mesh's own client, so that both look through the same watches.
        let consul = mesh.consul().context("a mesh without a registry")?.clone();
        let resolver = ConsulResolver::new(consul);
        let mut views = pin!(views(&resolver)?);
        let access = self.access.clone();
        let mut seeding = pin!(seed(&mesh, &access, sample_products(), START_LIMIT));
        let mut impatient = pin!(sleep(SILENCE));
        loop {
            self.write()?;
            if !self.ready && self.seeded && self.overview.is_ready() {
                self.ready = true;
                say(self.banner().text(&self.overview));
            }
            tokio::select! {
                () = stop.asked() => return Ok(()),
                Some(event) = events.recv() => self.happened(event)?,
                Some((service, resolution)) = views.next() => self.resolved(service, &resolution),
                seeded = &mut seeding, if !self.seeded => {
                    self.customer = seeded.map_err(|status| self.not_seeded(&status))?;
                    self.seeded = true;
                }
                () = &mut impatient, if !self.ready => {
                    self.still_waiting()?;
                    impatient.set(sleep(SILENCE));
                }
            }
        }
    }

    /// A process started or ended.
    fn happened(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Started { name, pid } => {
                if let Some(seen) = self.overview.named(&name) {
                    seen.pid = Some(pid);
                }
                if self.ready {
                    say(format!("{name} runs again as process {pid}"));
                }
            }
            Event::Ended { name, how, wait } => {
                let seen = self.overview.named(&name);
                if !self.ready
                    && let Some(seen) = seen
                {
                    bail!("{name} {how} while it started; {}", last_words(seen));
                }
                let pid =
                    seen.and_then(|s| s.pid.take()).map(|p| format!(" (process {p})")).unwrap_or_default();
                let lost =
                    if name == registry::NAME { "; services register again when it is back" } else { "" };
                say(format!("{name}{pid} {how}; it is started again in {wait:?}{lost}"));
            }
        }
        Ok(())
    }

    /// The registry says something new.
    fn resolved(&mut self, service: Service, resolution: &Resolution) {
        let changed = self.overview.resolved(service, resolution);
        if self.ready {
            for seen in changed.into_iter().map(|index| &self.overview.instances[index]) {
                let health = if seen.is_passing() { "passing again".to_owned() } else { seen.why_not() };
                say(format!("{} is {health}", seen.name));
            }
        }
    }

    /// Says what is not there yet, and gives up after [`START_LIMIT`].
    fn still_waiting(&self) -> Result<()> {
        let late: Vec<_> =
            self.overview.instances.iter().filter(|s| s.pid.is_none() || !s.is_passing()).collect();
        let list: Vec<_> = late.iter().map(|seen| format!("{} ({})", seen.name, seen.why_not())).collect();
        let list = if list.is_empty() { "the first products".to_owned() } else { list.join(", ") };
        let trouble = self.overview.trouble.as_deref().map(|t| format!("; the registry: {t}"));
        let list = list + &trouble.unwrap_or_default();
        if self.began.elapsed() > START_LIMIT {
            let words = late.first().map(|seen| format!("; {}", last_words(seen))).unwrap_or_default();
            bail!("after {START_LIMIT:?} these are not ready: {list}{words}");
        }
        let logs = self.owned.files.logs();
        say(format!("still waiting for {list}; the logs are in {}", logs.display()));
        Ok(())
    }

    fn not_seeded(&self, status: &tonic::Status) -> anyhow::Error {
        let service = self.overview.instances.iter().find(|seen| seen.service == Service::Product);
        let words = service.map(last_words).unwrap_or_default();
        anyhow::anyhow!("could not create the first products: {}; {words}", status.message())
    }

    /// Tells other commands of this mesh, when there is something new.
    fn write(&mut self) -> Result<()> {
        let file = self.overview.file(&self.registry.url, &self.started);
        if self.written.as_ref() == Some(&file) {
            return Ok(());
        }
        match self.owned.write(&file) {
            // What runs goes on running; only what others see of it is old.
            Err(error) if self.ready => tracing::warn!("{error:#}"),
            other => other?,
        }
        self.written = Some(file);
        Ok(())
    }

    fn banner(&self) -> Banner<'_> {
        Banner {
            registry: &self.registry.url,
            kind: &self.registry.kind,
            ui: self.registry.ui(),
            dns: self.registry.dns,
            files: &self.owned.files,
            product: sample_products().first().map(|p| p.product_id.clone()).unwrap_or_default(),
            request_id: uuid::Uuid::new_v4().to_string(),
            token: self.token,
            access: &self.access,
            customer: self.customer.as_ref(),
            took: self.began.elapsed(),
        }
    }
}

/// The end of a process's log, for whoever must mend it.
fn last_words(seen: &Seen) -> String {
    format!("its last lines ({}):\n{}", seen.log.display(), tail(&seen.log, TAIL))
}

/// What the registry says of every service, from now on.
fn views(resolver: &ConsulResolver) -> Result<impl Stream<Item = (Service, Resolution)> + use<>> {
    let mut views = Vec::new();
    for service in Service::ALL {
        let name: ServiceName = service.name().parse()?;
        views.push(WatchStream::new(resolver.resolve(&name)).map(move |resolution| (service, resolution)));
    }
    Ok(select_all(views))
}
