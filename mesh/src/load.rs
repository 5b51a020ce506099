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
    Exit,
    cli::LoadArgs,
    out::complain,
    outgoing::{Answered, Outgoing},
};

mod report;
mod schedule;
mod template;

pub(crate) use report::Record;
use report::{Report, Summary};
pub(crate) use schedule::Schedule;
pub(crate) use template::Template;

/// How many finished calls may wait to be written down. A call whose record
/// does not fit waits, still under way, so that memory is bounded.
const RECORDS: usize = 16_384;

/// How long finding and connecting to the first instance may take before the
/// calls begin; it is no part of any call's time.
const OPENING: Duration = Duration::from_secs(5);

/// Makes the run and prints what it saw.
///
/// # Errors
/// When the method, its data or the mesh cannot be found, or nothing can be
/// written. Failed calls are no error.
pub(crate) async fn run(args: LoadArgs) -> Result<Exit> {
    let outgoing = Outgoing::new(&args.request)?;
    let method = outgoing.method();
    if method.streams() {
        anyhow::bail!("`{}` answers with a stream, which has no latency to measure", method.full_name());
    }
    let template = Template::new(method, &args.request.data)?;
    if let Err(status) = outgoing.open(OPENING).await {
        complain(&format!("the calls are made although no instance answers: {}", status.message()));
    }
    let schedule = Schedule::new(args.rate, args.duration);
    let Calls { run, received, pacer } =
        Calls::begin(outgoing, template, schedule, args.deadline, args.in_flight_max)?;
    stop_on_interrupt(run.clone());

    let handle = Handle::current();
    let writer = {
        let out = BufWriter::new(io::stdout());
        let report = Report::new(out, args.json, run.outgoing.method().is_idempotent())?;
        spawn("report", move || write(report, received, run.start, &handle))?
    };
    let summary = tokio::task::spawn_blocking(move || {
        let _ = pacer.join();
        writer.join().unwrap_or_else(|_| Err(io::Error::other("the report failed")))
    })
    .await?;
    match summary {
        // Whoever read our lines has had enough.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Fine),
        Err(e) => Err(e).context("could not write the report"),
        Ok(Summary { failed, .. }) => {
            Ok(if args.max_failed.is_some_and(|most| failed > most) { Exit::Missed } else { Exit::Fine })
        }
    }
}

/// A run under way.
#[derive(Debug)]
pub(crate) struct Calls {
    run: Arc<Run>,
    /// What became of each call, in the order of their ends.
    pub(crate) received: mpsc::Receiver<Record>,
    pacer: thread::JoinHandle<()>,
}

impl Calls {
    /// Begins to send what `template` makes, each call within `deadline` and
    /// no more than `most` at once.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(crate) fn begin(
        outgoing: Outgoing,
        template: Template,
        schedule: Schedule,
        deadline: Duration,
        most: u32,
    ) -> Result<Self> {
        let run = Arc::new(Run {
            template,
            start: Instant::now(),
            deadline,
            in_flight: AtomicU32::new(0),
            stopped: AtomicBool::new(false),
            outgoing,
        });
        let (records, received) = mpsc::channel(RECORDS);
        let (pacing, handle) = (run.clone(), Handle::current());
        let pacer = spawn("pacer", move || pace(&pacing, schedule, most, &records, &handle))?;
        Ok(Self { run, received, pacer })
    }

    /// When it began.
    pub(crate) fn start(&self) -> Instant {
        self.run.start
    }
}

/// What every call of a run shares.
#[derive(Debug)]
struct Run {
    outgoing: Outgoing,
    template: Template,
    start: Instant,
    deadline: Duration,
    in_flight: AtomicU32,
    stopped: AtomicBool,
}

impl Run {
    /// Makes call `n`, which was due `due` after the start.
    async fn call(&self, n: u64, due: Duration) -> Record {
        let answered = match self.template.request(n) {
            Ok(bytes) => self.outgoing.unary(bytes, self.left(due)).await,
            Err(error) => Answered::never_sent(tonic::Code::InvalidArgument, &error.to_string()),
        };
        Record {
            due,
            code: answered.code_name(),
            took: self.start.elapsed().saturating_sub(due),
            attempts: answered.attempts,
            endpoint: answered.endpoint,
            message: answered.message,
        }
    }

    /// What is left of the deadline, which also counts from when the call was
    /// due. At least a millisecond: a late call is still made.
    fn left(&self, due: Duration) -> Duration {
        let late = self.start.elapsed().saturating_sub(due);
        self.deadline.saturating_sub(late).max(Duration::from_millis(1))
    }
}

/// Counts a call as under way until it is dropped.
struct InFlight(Arc<Run>);

impl InFlight {
    fn begin(run: &Arc<Run>, most: u32) -> Option<Self> {
        let free = |now: u32| (now < most).then_some(now + 1);
        run.in_flight.fetch_update(Relaxed, Relaxed, free).ok()?;
        Some(Self(run.clone()))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// Starts each call when it is due. Ends when all are sent, the run is
/// stopped or nobody takes its records.
fn pace(run: &Arc<Run>, schedule: Schedule, most: u32, records: &mpsc::Sender<Record>, handle: &Handle) {
    schedule.run(
        run.start,
        || run.stopped.load(Relaxed),
        |n, due| {
            let Some(in_flight) = InFlight::begin(run, most) else {
                return flow(records.blocking_send(Record::not_sent(due)).is_ok());
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

fn flow(go_on: bool) -> ControlFlow<()> {
    if go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}

/// Writes records as they come and a line each second, until the last sender
/// is gone. On a thread of its own: whoever reads our output may be slow.
fn write<W: Write>(
    mut report: Report<W>,
    mut records: mpsc::Receiver<Record>,
    start: Instant,
    handle: &Handle,
) -> io::Result<Summary> {
    let mut second = 1;
    loop {
        let until = start + Duration::from_secs(second);
        let next = handle.block_on(async { tokio::time::timeout_at(until.into(), records.recv()).await });
        match next {
            Ok(Some(record)) => report.add(record)?,
            Ok(None) => return report.finish(),
            Err(_) => {}
        }
        if Instant::now() >= until {
            report.tick(start.elapsed())?;
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

/// Ctrl-C ends the run early; what was sent is still waited for and shown.
fn stop_on_interrupt(run: Arc<Run>) {
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            run.stopped.store(true, Relaxed);
        }
    });
}
