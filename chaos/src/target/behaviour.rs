//! How a replica answers for now.

use std::{
    str::FromStr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::sleep;
use tonic::{Code, Status};

/// What a replica is told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Order {
    /// To tell what it has counted.
    Report,
    /// To tell what `/debug/mesh` would.
    State,
    /// To say whether it is healthy.
    Healthy(bool),
    /// To answer so from now on.
    Behave(Act),
}

/// How calls are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Act {
    /// As they should be.
    #[default]
    Well,
    /// That much later.
    Slow(Duration),
    /// At once with this code; each with this probability.
    Fail(Code, f64),
    /// Never.
    Hang,
}

impl FromStr for Order {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words: Vec<_> = line.split_whitespace().collect();
        Ok(match words[..] {
            ["report"] => Self::Report,
            ["state"] => Self::State,
            ["healthy"] => Self::Healthy(true),
            ["unhealthy"] => Self::Healthy(false),
            ["well"] => Self::Behave(Act::Well),
            ["hang"] => Self::Behave(Act::Hang),
            ["slow", time] => {
                Self::Behave(Act::Slow(registry_client::parse_duration(time).map_err(|e| e.to_string())?))
            }
            ["fail", code] => Self::Behave(Act::Fail(parse(code)?, 1.0)),
            ["half", code] => Self::Behave(Act::Fail(parse(code)?, 0.5)),
            _ => return Err(format!("`{line}` is no order")),
        })
    }
}

fn parse(code: &str) -> Result<Code, String> {
    match code {
        "UNAVAILABLE" => Ok(Code::Unavailable),
        "INTERNAL" => Ok(Code::Internal),
        other => Err(format!("`{other}` is no code to fail with")),
    }
}

/// The present act.
#[derive(Debug, Default)]
pub(super) struct Behaviour(Mutex<Act>);

impl Behaviour {
    pub(super) fn set(&self, act: Act) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = act;
    }

    /// Takes `work`, or does as it was told.
    pub(super) async fn act(&self, work: Duration) -> Result<(), Status> {
        let act = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match act {
            Act::Slow(more) => sleep(work + more).await,
            Act::Fail(code, share) if fastrand::f64() < share => {
                return Err(Status::new(code, "told to fail"));
            }
            Act::Hang => std::future::pending().await,
            Act::Well | Act::Fail(..) => sleep(work).await,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_a_line() {
        assert_eq!("slow 500ms".parse(), Ok(Order::Behave(Act::Slow(Duration::from_millis(500)))));
        assert_eq!("half INTERNAL".parse(), Ok(Order::Behave(Act::Fail(Code::Internal, 0.5))));
        assert_eq!("unhealthy".parse(), Ok(Order::Healthy(false)));
        assert!("fail OK".parse::<Order>().is_err() && "dance".parse::<Order>().is_err());
    }
}
