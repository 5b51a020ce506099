//! The scenarios, by the numbers of RELIABILITY.md.

use anyhow::Result;
use futures_util::future::BoxFuture;

use crate::{
    mechanism::{ADMISSION, CLIENT_LIMITS, PEER_LIMITS, TIMEOUTS},
    setting::ScenarioSetting,
    testbed::shop::ONE_KEY,
    verdict::ScenarioOutcome,
};

mod balance;
mod black_hole;
mod crash;
mod deadlines;
mod fail_clean;
mod flap;
mod foreign;
mod freeze;
mod garbage;
mod hostile;
mod hostile_servers;
mod idempotency;
mod kill;
mod lies;
mod misbehaving;
mod outage;
mod outbox;
mod overload;
mod power;
mod quorum;
mod registry_down;
mod reregister;
mod rolling;
mod stock;
mod trigger;
mod unhealthy;
mod unknown;

/// A fault and the promise for it.
#[derive(Debug)]
pub(crate) struct Scenario {
    /// The number in RELIABILITY.md.
    pub(crate) id: &'static str,
    pub(crate) fault: &'static str,
    pub(crate) promise: &'static str,
    /// The mechanism that it guards, which `--off` switches off.
    pub(crate) off: &'static str,
    pub(crate) run: fn(ScenarioSetting) -> BoxFuture<'static, Result<ScenarioOutcome>>,
}

/// All scenarios.
pub(crate) const ALL: &[Scenario] = &[
    Scenario {
        id: "R1",
        fault: "kill -9 one of three",
        promise: "no idempotent call fails; others only if in flight there; p99 in that second ≤ 3 ×",
        off: "retry",
        run: |setting| Box::pin(kill::run(setting)),
    },
    Scenario {
        id: "R2",
        fault: "rolling restart by SIGTERM",
        promise: "no call fails; each exits within 10 s",
        off: "drain",
        run: |setting| Box::pin(rolling::run(setting)),
    },
    Scenario {
        id: "R3",
        fault: "SIGSTOP of one of three",
        promise: "no idempotent call fails; out within 2 s; back within 5 s",
        off: "keep-alive",
        run: |setting| Box::pin(freeze::run(setting)),
    },
    Scenario {
        id: "R4",
        fault: "black hole: both ways, in, out, opening",
        promise: "no call outlives its deadline by 50 ms; no idempotent call fails; back within 2 s of the end of the fault",
        off: "keep-alive",
        run: |setting| Box::pin(black_hole::run(setting)),
    },
    Scenario {
        id: "R5",
        fault: "one of three is slow by 500 ms",
        promise: "its share ≤ 10 % after 5 s",
        off: "least_request",
        run: |setting| Box::pin(misbehaving::slow(setting)),
    },
    Scenario {
        id: "R6",
        fault: "one of three fails at once",
        promise: "its share ≤ 5 % after 1 s; success ≥ 99.9 %",
        off: "outlier detection",
        run: |setting| Box::pin(misbehaving::failing(setting)),
    },
    Scenario {
        id: "R7",
        fault: "one of three fails half of its calls",
        promise: "ejected within 10 s, back within 60 s; healthy ones never ejected",
        off: "outlier detection",
        run: |setting| Box::pin(misbehaving::half(setting)),
    },
    Scenario {
        id: "R8",
        fault: "all unhealthy, then cured",
        promise: "≥ 95 % still attempted; success within 1 s of the cure",
        off: "panic",
        run: |setting| Box::pin(unhealthy::run(setting)),
    },
    Scenario {
        id: "R9",
        fault: "total outage below three layers, and below two to five processes with few calls each",
        promise: "≤ 1.2 attempts a call at one layer, ≤ 1.3 at the bottom of three, ≤ 3 of one call; however many \
                  processes call: ≤ 1.2, in the worst second ≤ 1.75",
        off: "retry budget",
        run: |setting| Box::pin(outage::run(setting)),
    },
    Scenario {
        id: "R10",
        fault: "ten seconds of three times the load, or of ten times the latency, at 80 % of what can be done",
        promise: "≥ 95 % of the goodput before, within 10 s after",
        off: CLIENT_LIMITS,
        run: |setting| Box::pin(trigger::run(setting)),
    },
    Scenario {
        id: "R11",
        fault: "three times as many calls as the processor can serve",
        promise: "≥ 80 % of the peak's goodput, no second below 60 %; rejections p99 ≤ 20 ms; memory ≤ 2 ×; refusing \
                  costs ≤ half of serving",
        off: ADMISSION,
        run: |setting| Box::pin(overload::run(setting)),
    },
    Scenario {
        id: "R12",
        fault: "deadlines three services deep",
        promise: "the time shrinks hop by hop; ≥ 99 % of handlers cancelled within 100 ms",
        off: "propagation",
        run: |setting| Box::pin(deadlines::run(setting)),
    },
    Scenario {
        id: "R13",
        fault: "balance",
        promise: "round robin exact, weights within ± 5 points, a newcomer has traffic within 2 s",
        off: "balancing",
        run: |setting| Box::pin(balance::run(setting)),
    },
    Scenario {
        id: "R14",
        fault: "the registry is down",
        promise: "no call fails, no endpoint is dropped, ≤ 1 reconnect a second; a cold start works; converged within 5 s",
        off: "snapshot",
        run: |setting| Box::pin(registry_down::run(setting)),
    },
    Scenario {
        id: "R15",
        fault: "the registry lies: wiped, filtered, refused, mass deregistration",
        promise: "no call fails, no endpoint is dropped; ≤ 2 queries a second",
        off: "doubt",
        run: |setting| Box::pin(lies::run(setting)),
    },
    Scenario {
        id: "R16",
        fault: "the registry answers garbage",
        promise: "the last good set stays; no panic; ≤ 64 MiB more memory",
        off: "doubt",
        run: |setting| Box::pin(garbage::run(setting)),
    },
    Scenario {
        id: "R17",
        fault: "Consul's leader killed, quorum lost",
        promise: "no failed read, no failed call",
        off: "stale reads",
        run: |setting| Box::pin(quorum::run(setting)),
    },
    Scenario {
        id: "R18",
        fault: "the agent is restarted, wiped, stopped; a foreign deregistration",
        promise: "passing again within 2 s, re-registered within 5 s; shutdown never blocked for more than 2 s",
        off: "registration loop",
        run: |setting| Box::pin(reregister::run(setting)),
    },
    Scenario {
        id: "R19",
        fault: "an endpoint flaps, 1 s and 1 s",
        promise: "its ejections grow longer; no idempotent call fails",
        off: "growing ejections",
        run: |setting| Box::pin(flap::run(setting)),
    },
    Scenario {
        id: "R20",
        fault: "the same key again and again, replicas killed",
        promise: "as many orders and charges as keys, one response for each key; no order in progress after 60 s",
        off: "one request id for all repetitions",
        run: |setting| Box::pin(idempotency::run(setting)),
    },
    Scenario {
        id: "R21",
        fault: "five times as many buyers as pieces, a replica killed in each round",
        promise: "exactly all sold in each round, every response consistent with one stock; no order in progress after 60 s",
        off: stock::ONE_STEP,
        run: |setting| Box::pin(stock::run(setting)),
    },
    Scenario {
        id: "R22",
        fault: "order-service killed at one write after the other of a checkout",
        promise: "no acknowledged order lost, no charge without order or refund, one order for each key; settled \
                  within 30 s of the restart",
        off: crash::MECHANISM,
        run: |setting| Box::pin(crash::run(setting)),
    },
    Scenario {
        id: "R23",
        fault: "the power fails at each acknowledgement",
        promise: "no acknowledged order is lost",
        off: "synchronous=FULL",
        run: |setting| Box::pin(power::run(setting)),
    },
    Scenario {
        id: "R24",
        fault: "relay and consumers killed, the sink loses 30 % of deliveries, over the mesh and NATS",
        promise: "every event delivered, each effect once, in order per aggregate; drained ≤ 30 s",
        off: "inbox",
        run: |setting| Box::pin(outbox::run(setting)),
    },
    Scenario {
        id: "R25",
        fault: "payments whose outcome is unknown, a carrier that refuses, replicas killed",
        promise: "charged at most once, refunded when not shipped; no order in progress after 60 s",
        off: ONE_KEY,
        run: |setting| Box::pin(unknown::run(setting)),
    },
    Scenario {
        id: "R26",
        fault: "disk full, fsync fails, no file descriptors, PostgreSQL killed",
        promise: "no false acknowledgement; NOT_SERVING and refused, not hung; serving by itself after 5 s",
        off: "errors that the disk reports",
        run: |setting| Box::pin(fail_clean::run(setting)),
    },
    Scenario {
        id: "R29",
        fault: "one peer attacks a server in every way known",
        promise: "a neighbour's calls all succeed, p99 ≤ 2 × its quiet one (or 50 ms); ≤ 64 MiB more memory; mute \
                  sockets closed ≤ 15 s; nothing held afterwards",
        off: PEER_LIMITS,
        run: |setting| Box::pin(hostile::run(setting)),
    },
    Scenario {
        id: "R29b",
        fault: "hostile servers, each called beside a well one on one mesh",
        promise: "the calls of the well one all succeed, p99 ≤ 2 × its quiet one (or 50 ms); ≤ 64 MiB more memory; \
                  mute sockets closed ≤ 15 s",
        off: TIMEOUTS,
        run: |setting| Box::pin(hostile_servers::run(setting)),
    },
    Scenario {
        id: "R33",
        fault: "R1, R3, R5, R6, R7, R12 with grpc-go as the instances, and calls that end without a status",
        promise: "as those; after a reset, a panic, a page, no trailers, no answer: ≤ 1 % failed once ejected, no \
                  connection lost",
        off: "outlier detection",
        run: |setting| Box::pin(foreign::run(setting)),
    },
];
