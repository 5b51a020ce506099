//! The socket of a connection, which bounds the wait for the preface and for
//! the end, and corrects `:authority`.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Once},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    task::coop,
    time::{Sleep, sleep},
};
use tracing::warn;

use super::{
    Drain,
    authority::Authorities,
    connection::{Activity, Writable},
};

/// The least length of a client's preface: `PRI * HTTP/2.0…` and a SETTINGS
/// frame, which may be empty (RFC 9113 §3.4).
const PREFACE_LEN: usize = 24 + 9;

/// The received bytes that cost one of the 128 units of a task's budget: a
/// flooding connection yields every 8 KiB, which may be 900 frames.
const BYTES_PER_BUDGET_UNIT: usize = 64;

/// The time for which a closed connection still reads. Closing a socket with
/// unread bytes sends a reset, which may overtake responses.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// An accepted connection.
pub(super) struct Socket {
    stream: TcpStream,
    preface: Option<Preface>,
    linger: Option<Pin<Box<Sleep>>>,
    authorities: Authorities,
    activity: Activity,
    writable: Writable,
    /// Set once an invalid authority was logged.
    refused: Arc<Once>,
}

/// The missing part of the client's preface, and the end of the wait for it.
struct Preface {
    missing: usize,
    timeout: Pin<Box<dyn Future<Output = &'static str> + Send>>,
}

impl Socket {
    /// A socket whose peer must send its preface within `handshake`, or until
    /// the server drains. `refused` is shared by the sockets of a server; the
    /// last two record received data and writability.
    pub(super) fn new(
        stream: TcpStream,
        handshake: Duration,
        drain: Drain,
        refused: Arc<Once>,
        (activity, writable): (Activity, Writable),
    ) -> Self {
        let timeout = Box::pin(async move {
            tokio::select! {
                () = sleep(handshake) => "the peer did not begin HTTP/2 in time",
                () = drain.draining() => "the server is shutting down",
            }
        });
        let preface = Some(Preface { missing: PREFACE_LEN, timeout });
        Self { stream, preface, linger: None, authorities: Authorities::new(), activity, writable, refused }
    }

    /// Records whether the socket took what was written.
    fn wrote(&self, cx: &Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let was_paused = self.writable.is_paused();
        self.writable.set(written.is_ready());
        if was_paused && written.is_ready() {
            cx.waker().wake_by_ref();
        }
        written
    }

    /// Handles received data.
    fn follow(&mut self, read: &mut [u8]) {
        if !read.is_empty() {
            self.activity.record();
        }
        self.authorities.correct(read);
        if self.authorities.take_refused() {
            self.refused.call_once(|| {
                let peer = self.stream.peer_addr().map_or_else(|_| "unknown".to_owned(), |peer| peer.to_string());
                warn!(
                    %peer,
                    "calls of {peer} fail with INTERNAL: their :authority is invalid in HTTP/2; set another in the client, in gRPC core's languages by the channel option `grpc.default_authority`"
                );
            });
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.writable.is_paused() {
            // `poll_write` wakes the task.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        spend_budget(cx, buf.filled().len() - before);
        self.follow(&mut buf.filled_mut()[before..]);
        let Some(preface) = &mut self.preface else { return read };
        if read.is_pending() {
            let why = ready!(preface.timeout.as_mut().poll(cx));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
        }
        preface.missing = preface.missing.saturating_sub(buf.filled().len() - before);
        if preface.missing == 0 {
            self.preface = None;
        }
        read
    }
}

/// Spends the task's budget; once it is used up, the next read is pending.
fn spend_budget(cx: &mut Context<'_>, bytes: usize) {
    for _ in 0..bytes / BYTES_PER_BUDGET_UNIT {
        if let Poll::Ready(unit) = coop::poll_proceed(cx) {
            unit.made_progress();
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Closes the sending side, then reads until the peer has closed its own.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        let linger = this.linger.get_or_insert_with(|| Box::pin(sleep(LINGER_TIMEOUT)));
        let mut scratch = [0; 1024];
        loop {
            if linger.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut buf = ReadBuf::new(&mut scratch);
            let read = ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buf));
            if read.is_err() || buf.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn a_connection_that_is_sent_much_gives_way_to_others() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        peer.write_all(&[0; 256 << 10]).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        stream.readable().await.unwrap();
        let timeout = Duration::from_secs(10);
        let mut socket =
            Socket::new(stream, timeout, Drain::new(), Arc::new(Once::new()), Default::default());
        // The bytes that one poll of its task reads, in parts as h2 does.
        let read = tokio::spawn(poll_fn(move |cx| {
            let (mut all, mut scratch) = (0, [0; 4 << 10]);
            loop {
                let mut buf = ReadBuf::new(&mut scratch);
                if Pin::new(&mut socket).poll_read(cx, &mut buf).is_pending() {
                    return Poll::Ready(all);
                }
                all += buf.filled().len();
            }
        }));
        let read = read.await.unwrap();
        assert!((1..=16 << 10).contains(&read), "{read}");
    }
}
