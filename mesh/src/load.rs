//! `mesh load`: calls at a fixed rate, each timed from when it was due.

use std::{
    io::{self, BufWriter, Write},
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::{runtime::Handle, sync::mpsc};

use crate::{
    cli::LoadArgs,
    exit::Exit,
    method_client::{CallOutcome, MethodClient},
    terminal::print_error,
};

mod report;
mod schedule;
mod template;

pub(crate) use report::CallRecord;
use report::{Report, Summary};
pub(crate) use schedule::Schedule;
pub(crate) use template::Template;

/// The limit on records that wait to be written. A call whose record does not
/// fit stays in flight, so that memory is bounded.
const MAX_QUEUED_RECORDS: usize = 16_384;

/// The limit on finding and connecting to the first instance before the calls
/// begin; it counts in no call's latency.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the load and prints the report.
///
/// # Errors
/// When the method, its data or the mesh cannot be found, or nothing can be
/// written. Failed calls are no error.
pub(crate) async fn run(args: LoadArgs) -> Result<Exit> {
    let client = MethodClient::new(&args.request)?;
    let method = client.method();
    if method.is_server_streaming() {
        anyhow::bail!("`{}` responds with a stream, which has no latency to measure", method.full_name());
    }
    let template = Template::new(method, &args.request.data)?;
    if let Err(status) = client.wait_for_instance(CONNECT_TIMEOUT).await {
        print_error(&format!("no instance responds, calls are sent nevertheless: {}", status.message()));
    }
    let schedule = Schedule::new(args.rate, args.duration);
    let Calls { run, records, pacer } =
        Calls::start(client, template, schedule, args.deadline, args.in_flight_max)?;
    stop_on_interrupt(run.clone());

    let handle = Handle::current();
    let writer = {
        let out = BufWriter::new(io::stdout());
        let report = Report::new(out, args.json, run.client.method().is_idempotent())?;
        spawn("report", move || write(report, records, run.started_at, &handle))?
    };
    let summary = tokio::task::spawn_blocking(move || {
        let _ = pacer.join();
        writer.join().unwrap_or_else(|_| Err(io::Error::other("the report failed")))
    })
    .await?;
    match summary {
        // The reader closed the pipe.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Success),
        Err(e) => Err(e).context("could not write the report"),
        Ok(Summary { failed, .. }) => {
            Ok(if args.max_failed.is_some_and(|max| failed > max) { Exit::Failed } else { Exit::Success })
        }
    }
}

/// A running load.
#[derive(Debug)]
pub(crate) struct Calls {
    run: Arc<LoadRun>,
    /// The record of each call, in the order in which calls end.
    pub(crate) records: mpsc::Receiver<CallRecord>,
    pacer: thread::JoinHandle<()>,
}

impl Calls {
    /// Starts to send the requests of `template`, each call within `deadline`
    /// and at most `max_in_flight` at once.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn start(
        client: MethodClient,
        template: Template,
        schedule: Schedule,
        deadline: Duration,
        max_in_flight: u32,
    ) -> Result<Self> {
        let run = Arc::new(LoadRun {
            template,
            started_at: Instant::now(),
            deadline,
            in_flight: AtomicU32::new(0),
            stopped: AtomicBool::new(false),
            client,
        });
        let (sender, records) = mpsc::channel(MAX_QUEUED_RECORDS);
        let (load_run, handle) = (run.clone(), Handle::current());
        let pacer = spawn("pacer", move || send_all(&load_run, schedule, max_in_flight, &sender, &handle))?;
        Ok(Self { run, records, pacer })
    }

    /// The start of the first call.
    pub(crate) fn started_at(&self) -> Instant {
        self.run.started_at
    }
}

/// The state that all calls of a run share.
#[derive(Debug)]
struct LoadRun {
    client: MethodClient,
    template: Template,
    started_at: Instant,
    deadline: Duration,
    in_flight: AtomicU32,
    stopped: AtomicBool,
}

impl LoadRun {
    /// Makes call `n`, which was due `due` after the start.
    async fn call(&self, n: u64, due: Duration) -> CallRecord {
        let outcome = match self.template.request(n) {
            Ok(bytes) => self.client.unary(bytes, self.remaining_time(due)).await,
            Err(error) => CallOutcome::not_sent(tonic::Code::InvalidArgument, &error.to_string()),
        };
        CallRecord {
            due,
            code: outcome.code_name(),
            took: self.started_at.elapsed().saturating_sub(due),
            attempts: outcome.attempts,
            endpoint: outcome.endpoint,
            message: outcome.message,
        }
    }

    /// The rest of the deadline, which counts from when the call was due. At
    /// least a millisecond: a late call is still sent.
    fn remaining_time(&self, due: Duration) -> Duration {
        let late = self.started_at.elapsed().saturating_sub(due);
        self.deadline.saturating_sub(late).max(Duration::from_millis(1))
    }
}

/// A guard that counts a call as in flight until it is dropped.
struct InFlightGuard(Arc<LoadRun>);

impl InFlightGuard {
    fn start(run: &Arc<LoadRun>, max_in_flight: u32) -> Option<Self> {
        let free = |now: u32| (now < max_in_flight).then_some(now + 1);
        run.in_flight.fetch_update(Relaxed, Relaxed, free).ok()?;
        Some(Self(run.clone()))
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// Starts each call when it is due. Ends when all are sent, the run is stopped
/// or the receiver of the records is gone.
fn send_all(
    run: &Arc<LoadRun>,
    schedule: Schedule,
    max_in_flight: u32,
    records: &mpsc::Sender<CallRecord>,
    handle: &Handle,
) {
    schedule.run(
        run.started_at,
        || run.stopped.load(Relaxed),
        |n, due| {
            let Some(in_flight) = InFlightGuard::start(run, max_in_flight) else {
                return control_flow(records.blocking_send(CallRecord::not_sent(due)).is_ok());
            };
            let records = records.clone();
            handle.spawn(async move {
                let record = in_flight.0.call(n, due).await;
                if records.send(record).await.is_err() {
                    in_flight.0.stopped.store(true, Relaxed);
                }
            });
            ControlFlow::Continue(())
        },
    );
}

fn control_flow(can_continue: bool) -> ControlFlow<()> {
    if can_continue { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}

/// Writes records as they come and a line each second, until the last sender is
/// gone. Runs on a thread of its own because writing to the terminal may block.
fn write<W: Write>(
    mut report: Report<W>,
    mut records: mpsc::Receiver<CallRecord>,
    started_at: Instant,
    handle: &Handle,
) -> io::Result<Summary> {
    let mut second = 1;
    loop {
        let until = started_at + Duration::from_secs(second);
        let next = handle.block_on(async { tokio::time::timeout_at(until.into(), records.recv()).await });
        match next {
            Ok(Some(record)) => report.add(record)?,
            Ok(None) => return report.finish(),
            Err(_) => {}
        }
        if Instant::now() >= until {
            report.tick(started_at.elapsed())?;
            second += 1;
        }
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<thread::JoinHandle<T>> {
    thread::Builder::new().name(name.to_owned()).spawn(work).context("could not start a thread")
}

/// Ends the run early on Ctrl-C; calls in flight are still awaited and
/// reported.
fn stop_on_interrupt(run: Arc<LoadRun>) {
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            run.stopped.store(true, Relaxed);
        }
    });
}
