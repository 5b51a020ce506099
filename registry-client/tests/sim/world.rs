//! A simulated network with a client and the instances that it calls.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use registry_client::{
    Channel, ChannelConfig,
    instance::{Address, Instance},
    resolve::fixed::FixedResolver,
    testing::{Connector, FaultyService, Reply},
};
use turmoil::{
    Sim,
    net::{TcpListener, TcpStream},
};

use crate::{
    fault::{Fault, Kind, Plan},
    load::{self, Finished, Load},
    trace::Trace,
};

const PORT: u16 = 50051;

/// What one simulation runs.
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) plan: Plan,
    pub(crate) load: Load,
    /// How much simulated time passes in one step: the resolution of
    /// everything that is measured.
    pub(crate) tick: Duration,
    /// An instance that only a response after this time lists.
    pub(crate) newcomer: Option<Duration>,
}

/// What it found.
pub(crate) struct Outcome {
    pub(crate) trace: Trace,
    pub(crate) calls: Vec<Finished>,
    pub(crate) services: Vec<FaultyService>,
    pub(crate) dials: Vec<Dial>,
}

/// When which host was dialled.
pub(crate) type Dial = (Duration, String);

pub(crate) fn host(instance: usize) -> String {
    format!("s{instance}")
}

fn listed(instance: usize) -> Instance {
    Instance::new(&host(instance), Address::new(&host(instance), PORT).unwrap())
}

/// Runs a scenario to its end.
pub(crate) fn run(scenario: &Scenario, config: ChannelConfig) -> Outcome {
    // The library draws its jitter from this thread's generator.
    fastrand::seed(scenario.seed);
    let mut sim = turmoil::Builder::new()
        .rng_seed(scenario.seed)
        .epoch(std::time::UNIX_EPOCH)
        .simulation_duration(Duration::from_secs(2 * 3600))
        .tick_duration(scenario.tick)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(10))
        .tcp_capacity(4096)
        .build();
    let trace = Trace::default();
    let count = scenario.plan.instances + usize::from(scenario.newcomer.is_some());
    let services: Vec<_> = (0..count).map(|instance| serve(&mut sim, instance)).collect();
    let resolver = FixedResolver::with((0..scenario.plan.instances).map(listed));
    let calls = Arc::new(Mutex::new(Vec::new()));
    let dials = Arc::new(Mutex::new(Vec::new()));
    let client = {
        let (resolver, trace, calls) = (resolver.clone(), trace.clone(), calls.clone());
        let (load, connector) = (scenario.load, connector(trace.clone(), dials.clone()));
        async move {
            let channel =
                Channel::with_connector("echo".parse()?, &resolver, load::methods(), config, connector);
            load::run(channel, load, trace, calls).await;
            Ok(())
        }
    };
    sim.client("client", client);
    let mut changes = changes(scenario);
    while !sim.step().unwrap() {
        let now = sim.elapsed();
        while let Some((_, change)) = changes.next_if(|(at, _)| *at <= now) {
            trace.note(now, format_args!("{change:?}"));
            apply(&mut sim, &resolver, scenario, change);
        }
    }
    drop(sim);
    let (calls, dials) =
        (std::mem::take(&mut *calls.lock().unwrap()), std::mem::take(&mut *dials.lock().unwrap()));
    Outcome { trace, calls, services, dials }
}

/// An instance: echoes, after a little work.
fn serve(sim: &mut Sim<'_>, instance: usize) -> FaultyService {
    let service = FaultyService::from(Reply::Slow(Duration::from_millis(5)));
    let serving = service.clone();
    sim.host(host(instance), move || {
        let service = serving.clone();
        async move {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
            loop {
                let (socket, _) = listener.accept().await?;
                let service = service.clone();
                tokio::spawn(async move { service.serve(socket).await });
            }
        }
    });
    service
}

/// Opens simulated sockets, and notes each.
fn connector(trace: Trace, dials: Arc<Mutex<Vec<Dial>>>) -> Connector {
    Connector::new(move |address: Address| {
        let now = turmoil::sim_elapsed().unwrap();
        trace.note(now, format_args!("dial {}", address.host()));
        dials.lock().unwrap().push((now, address.host().to_owned()));
        async move { TcpStream::connect((address.host(), address.port())).await }
    })
}

/// What happens to the world from outside.
#[derive(Clone, Copy, Debug)]
enum Change {
    Begin(Kind),
    End(Kind),
    Newcomer,
}

/// Every change of a scenario, in order.
fn changes(scenario: &Scenario) -> std::iter::Peekable<std::vec::IntoIter<(Duration, Change)>> {
    let both = |fault: &Fault| [(fault.from, Change::Begin(fault.kind)), (fault.to, Change::End(fault.kind))];
    let mut changes: Vec<_> = scenario.plan.faults.iter().flat_map(both).collect();
    changes.extend(scenario.newcomer.map(|at| (at, Change::Newcomer)));
    changes.sort_by_key(|(at, _)| *at);
    changes.into_iter().peekable()
}

fn apply(sim: &mut Sim<'_>, resolver: &FixedResolver, scenario: &Scenario, change: Change) {
    let everyone = 0..scenario.plan.instances;
    match change {
        Change::Begin(kind) => match kind {
            Kind::Partition(i) => sim.partition("client", host(i)),
            Kind::Deaf(i) => sim.partition_oneway("client", host(i)),
            Kind::Mute(i) => sim.partition_oneway(host(i), "client"),
            Kind::Hold(i) => sim.hold("client", host(i)),
            Kind::Crash(i) => sim.crash(host(i)),
            Kind::RegistryDown => resolver.fail("the registry cannot be reached"),
            Kind::RegistryEmpty => resolver.set([]),
            Kind::RegistryShrunk(only) => resolver.set([listed(only)]),
            Kind::RegistryStale(stale) => resolver.set(everyone.map(|i| match i == stale {
                true => Instance::new(&host(i), Address::new(&host(i), PORT + 1).unwrap()),
                false => listed(i),
            })),
        },
        Change::End(kind) => match kind {
            Kind::Partition(i) => sim.repair("client", host(i)),
            Kind::Deaf(i) => sim.repair_oneway("client", host(i)),
            Kind::Mute(i) => sim.repair_oneway(host(i), "client"),
            Kind::Hold(i) => sim.release("client", host(i)),
            Kind::Crash(i) => sim.bounce(host(i)),
            Kind::RegistryDown | Kind::RegistryEmpty | Kind::RegistryShrunk(_) | Kind::RegistryStale(_) => {
                resolver.set(everyone.map(listed));
            }
        },
        Change::Newcomer => resolver.set((0..=scenario.plan.instances).map(listed)),
    }
}
