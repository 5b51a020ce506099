//! The running shop: waits until it is ready, prints it, and reports its events
//! until shutdown.

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
    discover,
    services::Service,
    state::{MeshFile, StateDir},
    terminal::print_line,
    up::{
        access::Access,
        banner::Banner,
        children::{Event, tail},
        overview::{Overview, ProcessStatus},
        registry::{self, Registry},
        seed::{Customer, seed},
        shutdown::Shutdown,
    },
};

/// The limit on the start of the shop.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// The interval between two progress lines during the start.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// The lines of a log that are shown when its process does not start.
const LOG_TAIL_LINES: usize = 8;

/// The shop that one `mesh up` runs.
#[derive(Debug)]
pub(crate) struct Shop<'a> {
    pub(crate) state_dir: &'a StateDir,
    pub(crate) registry: &'a Registry,
    pub(crate) overview: Overview,
    /// The start of `mesh up`, as an instant and as a date.
    pub(crate) began: Instant,
    pub(crate) started: String,
    /// The authentication of callers.
    access: Access,
    /// True if requests to the registry carry a token.
    has_consul_token: bool,
    is_seeded: bool,
    /// The customer of the examples, once the shop is seeded.
    customer: Option<Customer>,
    is_ready: bool,
    /// The content of `mesh.json`.
    written: Option<MeshFile>,
}

impl<'a> Shop<'a> {
    /// A shop whose processes are being started.
    pub(crate) fn new(
        state_dir: &'a StateDir,
        registry: &'a Registry,
        overview: Overview,
        (began, started): (Instant, String),
        (access, has_consul_token): (Access, bool),
    ) -> Self {
        let (is_seeded, is_ready) = (false, false);
        let (customer, written) = (None, None);
        Self {
            state_dir,
            registry,
            overview,
            began,
            started,
            access,
            has_consul_token,
            is_seeded,
            customer,
            is_ready,
            written,
        }
    }

    /// Runs until `shutdown`.
    ///
    /// # Errors
    /// When a process does not come up.
    pub(crate) async fn watch(
        mut self,
        mut events: mpsc::Receiver<Event>,
        shutdown: &Shutdown,
    ) -> Result<()> {
        let mesh = discover::mesh(&self.registry.url)?;
        // The mesh's own client, so that both look through the same watches.
        let consul = mesh.consul().context("a mesh without a registry")?.clone();
        let resolver = ConsulResolver::new(consul);
        let mut views = pin!(views(&resolver)?);
        let access = self.access.clone();
        let mut seeding = pin!(seed(&mesh, &access, sample_products(), START_TIMEOUT));
        let mut progress = pin!(sleep(PROGRESS_INTERVAL));
        loop {
            self.write()?;
            if !self.is_ready && self.is_seeded && self.overview.is_ready() {
                self.is_ready = true;
                print_line(self.banner().text(&self.overview));
            }
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                Some(event) = events.recv() => self.on_event(event)?,
                Some((service, resolution)) = views.next() => self.on_resolution(service, &resolution),
                seeded = &mut seeding, if !self.is_seeded => {
                    self.customer = seeded.map_err(|status| self.not_seeded(&status))?;
                    self.is_seeded = true;
                }
                () = &mut progress, if !self.is_ready => {
                    self.report_progress()?;
                    progress.set(sleep(PROGRESS_INTERVAL));
                }
            }
        }
    }

    /// Handles the start or the end of a process.
    fn on_event(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Started { name, pid } => {
                if let Some(process) = self.overview.named(&name) {
                    process.pid = Some(pid);
                }
                if self.is_ready {
                    print_line(format!("{name} restarted as process {pid}"));
                }
            }
            Event::Ended { name, how, backoff } => {
                let process = self.overview.named(&name);
                if !self.is_ready
                    && let Some(process) = process
                {
                    bail!("{name} {how} while it started; {}", log_tail(process));
                }
                let pid =
                    process.and_then(|s| s.pid.take()).map(|p| format!(" (process {p})")).unwrap_or_default();
                let lost =
                    if name == registry::NAME { "; services register again when it is back" } else { "" };
                print_line(format!("{name}{pid} {how}; restarting it in {backoff:?}{lost}"));
            }
        }
        Ok(())
    }

    /// Handles a new resolution of `service`.
    fn on_resolution(&mut self, service: Service, resolution: &Resolution) {
        let changed = self.overview.apply(service, resolution);
        if self.is_ready {
            for process in changed.into_iter().map(|index| &self.overview.instances[index]) {
                let health = if process.is_passing() {
                    "passing again".to_owned()
                } else {
                    process.not_passing_reason()
                };
                print_line(format!("{} is {health}", process.name));
            }
        }
    }

    /// Prints what is not ready yet, and fails after [`START_TIMEOUT`].
    fn report_progress(&self) -> Result<()> {
        let not_ready: Vec<_> =
            self.overview.instances.iter().filter(|s| s.pid.is_none() || !s.is_passing()).collect();
        let missing: Vec<_> = not_ready
            .iter()
            .map(|process| format!("{} ({})", process.name, process.not_passing_reason()))
            .collect();
        let missing = if missing.is_empty() { "the first products".to_owned() } else { missing.join(", ") };
        let trouble = self.overview.registry_error.as_deref().map(|t| format!("; the registry: {t}"));
        let missing = missing + &trouble.unwrap_or_default();
        if self.began.elapsed() > START_TIMEOUT {
            let tail_text =
                not_ready.first().map(|process| format!("; {}", log_tail(process))).unwrap_or_default();
            bail!("after {START_TIMEOUT:?} these are not ready: {missing}{tail_text}");
        }
        let logs = self.state_dir.files.logs();
        print_line(format!("still waiting for {missing}; the logs are in {}", logs.display()));
        Ok(())
    }

    fn not_seeded(&self, status: &tonic::Status) -> anyhow::Error {
        let service = self.overview.instances.iter().find(|process| process.service == Service::Product);
        let tail_text = service.map(log_tail).unwrap_or_default();
        anyhow::anyhow!("could not create the first products: {}; {tail_text}", status.message())
    }

    /// Writes `mesh.json` for other commands, if it changed.
    fn write(&mut self) -> Result<()> {
        let file = self.overview.file(&self.registry.url, &self.started);
        if self.written.as_ref() == Some(&file) {
            return Ok(());
        }
        match self.state_dir.write(&file) {
            // The shop keeps running; only the file is out of date.
            Err(error) if self.is_ready => tracing::warn!("{error:#}"),
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
            files: &self.state_dir.files,
            product: sample_products().first().map(|p| p.product_id.clone()).unwrap_or_default(),
            request_id: uuid::Uuid::new_v4().to_string(),
            has_consul_token: self.has_consul_token,
            access: &self.access,
            customer: self.customer.as_ref(),
            took: self.began.elapsed(),
        }
    }
}

/// The end of a process's log, for an error message.
fn log_tail(process: &ProcessStatus) -> String {
    format!("its last lines ({}):\n{}", process.log.display(), tail(&process.log, LOG_TAIL_LINES))
}

/// The stream of resolutions of every service.
fn views(resolver: &ConsulResolver) -> Result<impl Stream<Item = (Service, Resolution)> + use<>> {
    let mut views = Vec::new();
    for service in Service::ALL {
        let name: ServiceName = service.name().parse()?;
        views.push(WatchStream::new(resolver.resolve(&name)).map(move |resolution| (service, resolution)));
    }
    Ok(select_all(views))
}
