//! A registry that lies: stands between a client and the true one, passes on
//! what it is asked, or answers in its own words.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use registry_client::consul::Client;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use super::ports;

/// The most bytes that a question may have.
const QUESTION: usize = 16 << 10;
/// How long one may take to be asked.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// What is answered instead of the truth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Lie {
    /// Nothing else: the truth.
    #[default]
    None,
    /// These bytes.
    Bytes(Arc<[u8]>),
    /// A beginning, a middle that often, an end: for what is too long to hold.
    /// Told to one at a time; the next hears the truth meanwhile.
    Long(Arc<[u8]>, Arc<[u8]>, usize, Arc<[u8]>),
    /// The truth, but only as the leader knows it: nothing may be stale.
    Consistent,
}

impl Lie {
    /// A whole answer.
    pub(crate) fn answer(status: &str, headers: &str, body: &str) -> Self {
        let length = body.len();
        let text = format!(
            "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        Self::Bytes(text.into_bytes().into())
    }
}

/// The one that lies. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Liar {
    listen: SocketAddr,
    lie: watch::Sender<Lie>,
    questions: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl Liar {
    /// Stands in front of the registry at `truth`, and passes everything on.
    ///
    /// # Errors
    /// When no port can be had.
    pub(crate) async fn before(truth: SocketAddr) -> Result<Self> {
        let listen = ports::free()?;
        let listener = TcpListener::bind(listen).await.context("could not listen")?;
        let (lie, told) = watch::channel(Lie::None);
        let questions = Arc::new(AtomicUsize::new(0));
        let counting = questions.clone();
        let task = tokio::spawn(async move {
            let long = Arc::new(Semaphore::new(1));
            while let Ok((stream, _)) = listener.accept().await {
                let (told, long, counting) = (told.clone(), long.clone(), counting.clone());
                // Ends with its peer, which is of this process.
                tokio::spawn(async move { converse(stream, truth, told, &counting, &long).await });
            }
        });
        Ok(Self { listen, lie, questions, _task: AbortOnDropHandle::new(task) })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listen
    }

    /// A client of it.
    ///
    /// # Errors
    /// Never in fact: the address is ours.
    pub(crate) fn client(&self) -> Result<Client> {
        Ok(Client::builder(&format!("http://{}", self.listen)).build()?)
    }

    /// Answers so from now on; whoever waits for the truth is cut off.
    pub(crate) fn tell(&self, lie: Lie) {
        self.lie.send_replace(lie);
    }

    /// How many questions were asked so far.
    pub(crate) fn questions(&self) -> usize {
        self.questions.load(Relaxed)
    }
}

/// Answers the one question of a connection.
async fn converse(
    mut stream: TcpStream,
    truth: SocketAddr,
    mut told: watch::Receiver<Lie>,
    questions: &AtomicUsize,
    long: &Semaphore,
) -> io::Result<()> {
    let mut question = timeout(REQUEST_TIMEOUT, read(&mut stream)).await??;
    questions.fetch_add(1, Relaxed);
    let lie = told.borrow_and_update().clone();
    match lie {
        Lie::Bytes(bytes) => return stream.write_all(&bytes).await,
        Lie::Long(begin, middle, times, end) => {
            if let Ok(_turn) = long.try_acquire() {
                stream.write_all(&begin).await?;
                for _ in 0..times {
                    stream.write_all(&middle).await?;
                }
                return stream.write_all(&end).await;
            }
        }
        Lie::Consistent => {
            if let Some(at) = question.windows(5).position(|word| word == b"stale") {
                // What Consul does not know, it ignores.
                question[at..at + 5].copy_from_slice(b"fresh");
            }
        }
        Lie::None => {}
    }
    let mut behind = TcpStream::connect(truth).await?;
    behind.write_all(&question).await?;
    tokio::select! {
        passed = copy_bidirectional(&mut stream, &mut behind) => passed.map(drop),
        _ = told.changed() => Ok(()),
    }
}

/// A question up to its body, changed to be the only one of its connection.
async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut question = Vec::new();
    loop {
        if let Some(end) = question.windows(4).position(|four| four == b"\r\n\r\n") {
            question.splice(end..end, *b"\r\nConnection: close");
            return Ok(question);
        }
        if stream.read_buf(&mut question).await? == 0 || question.len() > QUESTION {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}
