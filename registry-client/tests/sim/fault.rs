//! Which faults a seed brings, and whom they leave reachable.

use std::{fmt, time::Duration};

use fastrand::Rng;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing passes between the client and this instance.
    Partition(usize),
    /// Nothing passes from the client to it.
    Deaf(usize),
    /// Nothing passes from it to the client.
    Mute(usize),
    /// Whatever passes waits until this is over.
    Hold(usize),
    /// The process is killed, and started again when this is over.
    Crash(usize),
    /// The registry is unreachable.
    RegistryDown,
    /// The registry lists no instance.
    RegistryEmpty,
    /// The registry has forgotten all but this instance.
    RegistryShrunk(usize),
    /// The registry lists this instance at an unused address.
    RegistryStale(usize),
}

impl Kind {
    /// Returns whether this instance cannot be reached while it lasts.
    fn takes_down(self, instance: usize) -> bool {
        match self {
            Self::Partition(i)
            | Self::Deaf(i)
            | Self::Mute(i)
            | Self::Hold(i)
            | Self::Crash(i)
            | Self::RegistryStale(i) => i == instance,
            Self::RegistryDown | Self::RegistryEmpty | Self::RegistryShrunk(_) => false,
        }
    }

    /// Returns whether the registry does not list this instance while it lasts.
    fn unlists(self, instance: usize) -> bool {
        self == Self::RegistryEmpty || matches!(self, Self::RegistryShrunk(only) if only != instance)
    }
}

/// A fault and when it begins and ends, in simulated time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) from: Duration,
    pub(crate) to: Duration,
}

impl Fault {
    fn overlaps(&self, from: Duration, to: Duration) -> bool {
        self.from < to && from < self.to
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} from {:?} to {:?}", self.kind, self.from, self.to)
    }
}

/// The faults of one run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) faults: Vec<Fault>,
    pub(crate) instances: usize,
}

/// Faults begin after everything is connected and end before the calm in
/// which everything has to recover.
const FIRST: Duration = Duration::from_secs(5);
const LAST: Duration = Duration::from_secs(45);

impl Plan {
    /// A minute of faults: at most one at a time for each instance and for
    /// the registry, so that the end of one cannot heal another.
    pub(crate) fn draw(seed: u64, instances: usize) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut faults = Vec::new();
        for instance in 0..instances {
            lane(&mut rng, &mut faults, |rng| match rng.u8(..5) {
                0 => Kind::Partition(instance),
                1 => Kind::Deaf(instance),
                2 => Kind::Mute(instance),
                3 => Kind::Hold(instance),
                _ => Kind::Crash(instance),
            });
        }
        lane(&mut rng, &mut faults, |rng| match rng.u8(..4) {
            0 => Kind::RegistryDown,
            1 => Kind::RegistryEmpty,
            2 => Kind::RegistryShrunk(rng.usize(..instances)),
            _ => Kind::RegistryStale(rng.usize(..instances)),
        });
        Self { faults, instances }
    }

    /// Returns whether some instance can be reached all through this time, and
    /// could for `settling` before it.
    pub(crate) fn leaves_one(&self, from: Duration, to: Duration, settling: Duration) -> bool {
        let from = from.saturating_sub(settling);
        (0..self.instances).any(|instance| !self.is_down(instance, from, to))
    }

    /// How many faults begin in between that silence an instance or kill it.
    pub(crate) fn strikes(&self, from: Duration, to: Duration) -> usize {
        let strikes = |fault: &&Fault| (0..self.instances).any(|i| fault.kind.takes_down(i));
        self.faults.iter().filter(strikes).filter(|fault| from <= fault.from && fault.from < to).count()
    }

    /// Returns whether this instance cannot be reached, or is not known, at
    /// some time in between.
    fn is_down(&self, instance: usize, from: Duration, to: Duration) -> bool {
        self.faults.iter().filter(|fault| fault.kind.takes_down(instance)).any(|fault| {
            // One that fails while it is not listed is forgotten, as it
            // should be, until it is listed again.
            let forgotten = self
                .faults
                .iter()
                .filter(|other| other.kind.unlists(instance) && other.overlaps(fault.from, fault.to))
                .map(|other| other.to);
            let end = forgotten.fold(fault.to, Duration::max);
            Fault { to: end, ..*fault }.overlaps(from, to)
        })
    }
}

/// Faults one after the other, with time to breathe between them.
fn lane(rng: &mut Rng, faults: &mut Vec<Fault>, mut kind: impl FnMut(&mut Rng) -> Kind) {
    let mut now = FIRST;
    loop {
        let from = now + Duration::from_millis(rng.u64(1_000..20_000));
        let to = from + Duration::from_millis(rng.u64(500..8_000));
        if to > LAST {
            return;
        }
        faults.push(Fault { kind: kind(rng), from, to });
        now = to;
    }
}
