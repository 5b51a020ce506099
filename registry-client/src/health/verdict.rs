//! The verdict on an instance.

use super::Phase;
use crate::instance::InstanceHealth;

/// The status of an instance's own health service (`grpc.health.v1`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ServingState {
    /// The health check is off, not implemented or without a response.
    #[default]
    Off,
    /// The first response is awaited.
    Unknown,
    /// The instance serves.
    Serving,
    /// The instance does not serve.
    NotServing,
}

impl ServingState {
    /// The name in lower case.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Unknown => "unknown",
            Self::Serving => "serving",
            Self::NotServing => "not_serving",
        }
    }
}

/// The source of a decision against an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DecidedBy {
    /// The registry's checks, or its maintenance.
    Registry,
    /// The instance's own health service.
    ServingState,
    /// The state of its connection.
    Connection,
    /// Outlier detection, by the outcomes of attempts.
    Outlier,
    /// The delay of a return, after several within a short time.
    Damping,
}

impl DecidedBy {
    /// The name in lower case.
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

/// The decision whether calls go to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// They do.
    In,
    /// They do when no instance is in ("panic"): an instance that may fail is
    /// better than a call that fails for certain.
    LastResort(DecidedBy),
    /// One call may, as a probe; others only as a last resort.
    Probe,
    /// They cannot, or must not.
    Out(DecidedBy),
}

/// The groups of instances in the order of their use: calls go to the first
/// group that is not empty, and to no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Preference {
    /// Healthy instances.
    Well,
    /// Healthy instances whose return is delayed.
    Damped,
    /// Connected instances that a source has decided against.
    LastResort,
}

impl Verdict {
    /// The group of an instance with this verdict; `None` if it gets no calls.
    pub(crate) fn preference(self) -> Option<Preference> {
        match self {
            Self::In => Some(Preference::Well),
            Self::LastResort(DecidedBy::Damping) => Some(Preference::Damped),
            Self::LastResort(_) | Self::Probe => Some(Preference::LastResort),
            Self::Out(_) => None,
        }
    }
}

/// The verdict from all sources. The first row that matches decides. `held`:
/// the return of the instance is delayed.
pub(crate) fn verdict(
    registry: InstanceHealth,
    connected: bool,
    watch: ServingState,
    outlier: Phase,
    held: bool,
) -> Verdict {
    match (registry, connected, watch, outlier) {
        // An operator's decision, which holds even in panic.
        (InstanceHealth::Maintenance, _, _, _) => Verdict::Out(DecidedBy::Registry),
        (_, false, _, _) => Verdict::Out(DecidedBy::Connection),
        // The status is known a moment later.
        (_, _, ServingState::Unknown, _) => Verdict::Out(DecidedBy::ServingState),
        (InstanceHealth::Critical, _, _, _) => Verdict::LastResort(DecidedBy::Registry),
        // A server that shuts down reports this too.
        (_, _, ServingState::NotServing, _) => Verdict::LastResort(DecidedBy::ServingState),
        (_, _, _, Phase::Ejected) => Verdict::LastResort(DecidedBy::Outlier),
        (_, _, _, Phase::Probation) => Verdict::Probe,
        (
            InstanceHealth::Passing | InstanceHealth::Warning,
            true,
            ServingState::Serving | ServingState::Off,
            Phase::In,
        ) => match held {
            true => Verdict::LastResort(DecidedBy::Damping),
            false => Verdict::In,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_table_decides() {
        use {InstanceHealth::*, Phase::*};
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
            // A hold affects only an instance that would be in.
            let held = if verdict == Verdict::In { last(DecidedBy::Damping) } else { verdict };
            assert_eq!(super::verdict(registry, connected, watch, outlier, true), held, "{case}, held");
        }
    }
}
