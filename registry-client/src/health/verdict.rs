//! The one verdict on an instance.

use super::Phase;
use crate::instance::Health;

/// What an instance's own health service (`grpc.health.v1`) says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ServingState {
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

impl ServingState {
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
pub(crate) enum DecidedBy {
    /// The registry's checks, or its maintenance.
    Registry,
    /// The instance's own health service.
    ServingState,
    /// The state of its connection.
    Connection,
    /// How attempts ended.
    Outlier,
    /// The delay of a return, after several within a short time.
    Damping,
}

impl DecidedBy {
    /// The name in small letters.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::ServingState => "watch",
            Self::Connection => "connection",
            Self::Outlier => "outlier",
            Self::Damping => "damping",
        }
    }
}

/// True if calls go to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// They do.
    In,
    /// They do when nobody is in ("panic"): one that answers, though it may
    /// fail, is better than failing for certain.
    LastResort(DecidedBy),
    /// One may, to find out whether more should; else as a last resort.
    Probe,
    /// They cannot, or must not.
    Out(DecidedBy),
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
            Self::LastResort(DecidedBy::Damping) => Some(Preference::Held),
            Self::LastResort(_) | Self::Probe => Some(Preference::LastResort),
            Self::Out(_) => None,
        }
    }
}

/// Weighs what they say. The first row that fits decides. `held`: its return is
/// delayed.
pub(crate) fn verdict(
    registry: Health,
    connected: bool,
    watch: ServingState,
    outlier: Phase,
    held: bool,
) -> Verdict {
    match (registry, connected, watch, outlier) {
        // An operator's word, even against panic.
        (Health::Maintenance, _, _, _) => Verdict::Out(DecidedBy::Registry),
        (_, false, _, _) => Verdict::Out(DecidedBy::Connection),
        // A moment later it is known.
        (_, _, ServingState::Unknown, _) => Verdict::Out(DecidedBy::ServingState),
        (Health::Critical, _, _, _) => Verdict::LastResort(DecidedBy::Registry),
        // So a server says that it is going, too.
        (_, _, ServingState::NotServing, _) => Verdict::LastResort(DecidedBy::ServingState),
        (_, _, _, Phase::Ejected) => Verdict::LastResort(DecidedBy::Outlier),
        (_, _, _, Phase::Probation) => Verdict::Probe,
        (Health::Passing | Health::Warning, true, ServingState::Serving | ServingState::Off, Phase::In) => {
            match held {
                true => Verdict::LastResort(DecidedBy::Damping),
                false => Verdict::In,
            }
        }
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
            (Passing, true, ServingState::Serving, In, Verdict::In),
            (Passing, true, ServingState::Off, In, Verdict::In),
            (Warning, true, ServingState::Serving, In, Verdict::In),
            // Each of the four alone.
            (Critical, true, ServingState::Serving, In, last(DecidedBy::Registry)),
            (Passing, true, ServingState::NotServing, In, last(DecidedBy::ServingState)),
            (Passing, false, ServingState::Serving, In, Verdict::Out(DecidedBy::Connection)),
            (Passing, true, ServingState::Serving, Ejected, last(DecidedBy::Outlier)),
            (Passing, true, ServingState::Serving, Probation, Verdict::Probe),
            // Not even as a last resort.
            (Maintenance, true, ServingState::Serving, In, Verdict::Out(DecidedBy::Registry)),
            (Maintenance, false, ServingState::Off, Ejected, Verdict::Out(DecidedBy::Registry)),
            (Critical, false, ServingState::Off, In, Verdict::Out(DecidedBy::Connection)),
            (Passing, true, ServingState::Unknown, In, Verdict::Out(DecidedBy::ServingState)),
            (Critical, true, ServingState::Unknown, In, Verdict::Out(DecidedBy::ServingState)),
            // Whose word goes before whose.
            (Critical, true, ServingState::NotServing, Ejected, last(DecidedBy::Registry)),
            (Passing, true, ServingState::NotServing, Ejected, last(DecidedBy::ServingState)),
            (Critical, true, ServingState::Serving, Probation, last(DecidedBy::Registry)),
            (Passing, true, ServingState::NotServing, Probation, last(DecidedBy::ServingState)),
        ] {
            let case = format!("{registry:?}, connected {connected}, {watch:?}, {outlier:?}");
            assert_eq!(super::verdict(registry, connected, watch, outlier, false), verdict, "{case}");
            // A hold keeps out who would be in, and helps nobody else.
            let held = if verdict == Verdict::In { last(DecidedBy::Damping) } else { verdict };
            assert_eq!(super::verdict(registry, connected, watch, outlier, true), held, "{case}, held");
        }
    }
}
