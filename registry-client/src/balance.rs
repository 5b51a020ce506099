//! Which of the ready instances a call goes to.

/// The name of a balancing policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Balancer {
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
    /// One after the other, each as often as its weight says.
    Weighted,
    /// The one with fewer requests under way of two drawn at random.
    #[default]
    LeastRequest,
}
