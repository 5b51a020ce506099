//! How much a server takes on.

use std::time::Duration;

/// How a [`Server`](crate::server::Server) refuses what it cannot do, so that
/// it goes on doing what it can.
///
/// Each unary method that a descriptor set describes has a limit of calls under
/// way, between [`min`](Self::min) and [`max`](Self::max), which follows the
/// method's latency. It starts open and shrinks only when calls have taken
/// markedly too long for a second: more than twice what they take when few are
/// under way, plus 5 ms, and more than a quarter of what their callers allow (1 s
/// where they do not say): until then, refusing would save nothing. Once it has
/// shrunk it goes down to where calls take no longer than twice their time plus
/// 5 ms, so that neither they nor refusals wait for the processor.
/// With none under way it starts anew, so an idle server refuses nothing. A
/// method that no descriptor describes has only the highest limit, shared with
/// all such; streaming methods share [`max_streams`](Self::max_streams); 100 calls of
/// reflection may be under way, and health is never refused.
///
/// A refused call is answered `RESOURCE_EXHAUSTED`, with `google.rpc.RetryInfo`
/// (in 0.5 to 1.5 s) and `google.rpc.ErrorInfo` (reason `OVERLOADED`, domain
/// the registered name), before any of it was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdmissionConfig {
    /// The least limit of a method, in calls under way; 4 unless set. What is
    /// normal is learnt while no more are under way.
    pub min: usize,
    /// The highest limit of a method, in calls under way; 1,000 unless set
    /// (`CONSORT_MAX_CONCURRENCY`).
    pub max: usize,
    /// The limit of a method of which nothing is known yet, within `min` and
    /// `max`; 1,000 unless set.
    pub initial: usize,
    /// How many calls may wait before one method; 100 unless set.
    pub queue: usize,
    /// How long a call may wait there; 10 ms unless set. It is refused at once
    /// where its turn will not come by then, or not before its deadline.
    pub queue_wait: Duration,
    /// The most calls of streaming methods under way at once, over all
    /// connections; 10,000 unless set.
    pub max_streams: usize,
    /// Unary methods that have no limit, such as
    /// `shop.cart.v1.CartService/WaitForChange`: those that answer when
    /// something happens, so that their latency says nothing. None unless set.
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
