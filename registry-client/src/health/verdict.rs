//! The one verdict on an instance.

use super::Phase;
use crate::instance::Health;

/// What an instance's own health service (`grpc.health.v1`) says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Watch {
    /// It is not asked, or has no such service, or does not answer.
    #[default]
    Off,
    /// It was asked just now.
    Unknown,
    /// It serves.
    Serving,
    /// It does not, or does not any more.
    NotServing,
}

impl Watch {
    /// The name in small letters.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Unknown => "unknown",
            Self::Serving => "serving",
            Self::NotServing => "not_serving",
        }
    }
}

/// Which of them decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// The registry's checks, or its maintenance.
    Registry,
    /// The instance's own health service.
    Watch,
    /// The state of its connection.
    Connection,
    /// How attempts ended.
    Outlier,
    /// The delay of a return, after several within a short time.
    Damping,
}

impl By {
    /// The name in small letters.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Watch => "watch",
            Self::Connection => "connection",
            Self::Outlier => "outlier",
            Self::Damping => "damping",
        }
    }
}

/// Whether calls go to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// They do.
    In,
    /// They do when nobody is in ("panic"): one that answers, though it may
    /// fail, is better than failing for certain.
    LastResort(By),
    /// One may, to find out whether more should; else as a last resort.
    Probe,
    /// They cannot, or must not.
    Out(By),
}

/// The groups of instances in the order in which they are used: calls go to the
/// first that is not empty, and to no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Preference {
    /// Nothing speaks against them.
    Well,
    /// They are in service, but their return is delayed.
    Held,
    /// They answer, though something speaks against them.
    LastResort,
}

impl Verdict {
    /// The group of an instance with this verdict; `None` where it is never
    /// called.
    pub(crate) fn preference(self) -> Option<Preference> {
        match self {
            Self::In => Some(Preference::Well),
            Self::LastResort(By::Damping) => Some(Preference::Held),
            Self::LastResort(_) | Self::Probe => Some(Preference::LastResort),
            Self::Out(_) => None,
        }
    }
}

/// Weighs what they say. The first row that fits decides. `held`: its return is
/// delayed.
pub(crate) fn weigh(registry: Health, connected: bool, watch: Watch, outlier: Phase, held: bool) -> Verdict {
    match (registry, connected, watch, outlier) {
        // An operator's word, even against panic.
        (Health::Maintenance, _, _, _) => Verdict::Out(By::Registry),
        (_, false, _, _) => Verdict::Out(By::Connection),
        // A moment later it is known.
        (_, _, Watch::Unknown, _) => Verdict::Out(By::Watch),
        (Health::Critical, _, _, _) => Verdict::LastResort(By::Registry),
        // So a server says that it is going, too.
        (_, _, Watch::NotServing, _) => Verdict::LastResort(By::Watch),
        (_, _, _, Phase::Ejected) => Verdict::LastResort(By::Outlier),
        (_, _, _, Phase::Probation) => Verdict::Probe,
        (Health::Passing | Health::Warning, true, Watch::Serving | Watch::Off, Phase::In) => match held {
            true => Verdict::LastResort(By::Damping),
            false => Verdict::In,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_table_decides() {
        use {Health::*, Phase::*};
        let last = Verdict::LastResort;
        for (registry, connected, watch, outlier, verdict) in [
            // All is well, or nothing is said against it.
            (Passing, true, Watch::Serving, In, Verdict::In),
            (Passing, true, Watch::Off, In, Verdict::In),
            (Warning, true, Watch::Serving, In, Verdict::In),
            // Each of the four alone.
            (Critical, true, Watch::Serving, In, last(By::Registry)),
            (Passing, true, Watch::NotServing, In, last(By::Watch)),
            (Passing, false, Watch::Serving, In, Verdict::Out(By::Connection)),
            (Passing, true, Watch::Serving, Ejected, last(By::Outlier)),
            (Passing, true, Watch::Serving, Probation, Verdict::Probe),
            // Not even as a last resort.
            (Maintenance, true, Watch::Serving, In, Verdict::Out(By::Registry)),
            (Maintenance, false, Watch::Off, Ejected, Verdict::Out(By::Registry)),
            (Critical, false, Watch::Off, In, Verdict::Out(By::Connection)),
            (Passing, true, Watch::Unknown, In, Verdict::Out(By::Watch)),
            (Critical, true, Watch::Unknown, In, Verdict::Out(By::Watch)),
            // Whose word goes before whose.
            (Critical, true, Watch::NotServing, Ejected, last(By::Registry)),
            (Passing, true, Watch::NotServing, Ejected, last(By::Watch)),
            (Critical, true, Watch::Serving, Probation, last(By::Registry)),
            (Passing, true, Watch::NotServing, Probation, last(By::Watch)),
        ] {
            let case = format!("{registry:?}, connected {connected}, {watch:?}, {outlier:?}");
            assert_eq!(weigh(registry, connected, watch, outlier, false), verdict, "{case}");
            // A hold keeps out who would be in, and helps nobody else.
            let held = if verdict == Verdict::In { last(By::Damping) } else { verdict };
            assert_eq!(weigh(registry, connected, watch, outlier, true), held, "{case}, held");
        }
    }
}
