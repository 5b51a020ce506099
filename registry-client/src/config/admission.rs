//! The settings of admission control.

use std::time::Duration;

/// The admission control of a [`Server`](crate::server::Server), which rejects
/// excess calls of an overloaded server.
///
/// Each unary method with a descriptor has a concurrency limit between
/// [`min`](Self::min) and [`max`](Self::max), which follows the method's
/// latency. It starts at `initial` and shrinks only when latency has been too
/// high for a second: more than twice the latency with few calls in flight,
/// plus 5 ms, and more than a quarter of the caller's timeout (1 s without
/// one). Once it has shrunk, it goes down until latency is at most twice that
/// baseline plus 5 ms, so that neither calls nor rejections wait for the
/// processor. Without calls in flight it starts anew, so an idle server rejects
/// nothing. Methods without a descriptor share the highest limit; streaming
/// methods share [`max_streams`](Self::max_streams); reflection is limited to
/// 100 calls, and health is never rejected.
///
/// A rejected call ends with `RESOURCE_EXHAUSTED`, with `google.rpc.RetryInfo`
/// (0.5 to 1.5 s) and `google.rpc.ErrorInfo` (reason `OVERLOADED`, domain the
/// registered name), before any of it was processed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdmissionConfig {
    /// The lowest limit of a method, in concurrent calls; 4 unless set. The
    /// baseline latency is measured while at most so many are in flight.
    pub min: usize,
    /// The highest limit of a method, in concurrent calls; 1,000 unless set
    /// (`CONSORT_MAX_CONCURRENCY`).
    pub max: usize,
    /// The initial limit of a method, within `min` and `max`; 1,000 unless set.
    pub initial: usize,
    /// The most queued calls of one method; 100 unless set.
    pub queue: usize,
    /// The longest wait of a queued call; 10 ms unless set. A call is rejected
    /// at once if its turn will not come by then, or not before its deadline.
    pub queue_wait: Duration,
    /// The most concurrent calls of streaming methods, over all connections;
    /// 10,000 unless set.
    pub max_streams: usize,
    /// Unary methods that have no limit, such as
    /// `shop.cart.v1.CartService/WaitForChange`: those that respond when an
    /// event happens, so that their latency says nothing about load. None
    /// unless set.
    pub exempt: Vec<String>,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        Self {
            min: 4,
            max: 1_000,
            initial: 1_000,
            queue: 100,
            queue_wait: Duration::from_millis(10),
            max_streams: 10_000,
            exempt: Vec::new(),
        }
    }
}
