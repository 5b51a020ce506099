//! The behaviour of a replica.

use std::{
    str::FromStr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::sleep;
use tonic::{Code, Status};

/// A command to a replica.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Command {
    /// Prints the counters.
    Report,
    /// Prints the state that `/debug/mesh` serves.
    State,
    /// Sets the health that it reports.
    SetHealthy(bool),
    /// Sets the behaviour.
    SetBehaviour(Behaviour),
}

/// The response to calls.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Behaviour {
    /// Normal responses.
    #[default]
    Normal,
    /// Responses that much later.
    Delay(Duration),
    /// Immediate failures with this code and this probability.
    Fail(Code, f64),
    /// No responses.
    Hang,
}

impl FromStr for Command {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words: Vec<_> = line.split_whitespace().collect();
        Ok(match words[..] {
            ["report"] => Self::Report,
            ["state"] => Self::State,
            ["healthy"] => Self::SetHealthy(true),
            ["unhealthy"] => Self::SetHealthy(false),
            ["well"] => Self::SetBehaviour(Behaviour::Normal),
            ["hang"] => Self::SetBehaviour(Behaviour::Hang),
            ["slow", time] => Self::SetBehaviour(Behaviour::Delay(
                registry_client::parse_duration(time).map_err(|e| e.to_string())?,
            )),
            ["fail", code] => Self::SetBehaviour(Behaviour::Fail(parse(code)?, 1.0)),
            ["half", code] => Self::SetBehaviour(Behaviour::Fail(parse(code)?, 0.5)),
            _ => return Err(format!("unknown command `{line}`")),
        })
    }
}

fn parse(code: &str) -> Result<Code, String> {
    match code {
        "UNAVAILABLE" => Ok(Code::Unavailable),
        "INTERNAL" => Ok(Code::Internal),
        other => Err(format!("unsupported code `{other}`")),
    }
}

/// The current behaviour.
#[derive(Debug, Default)]
pub(super) struct CurrentBehaviour(Mutex<Behaviour>);

impl CurrentBehaviour {
    pub(super) fn set(&self, behaviour: Behaviour) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = behaviour;
    }

    /// Takes `work`, or applies the fault.
    pub(super) async fn apply(&self, work: Duration) -> Result<(), Status> {
        let behaviour = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match behaviour {
            Behaviour::Delay(more) => sleep(work + more).await,
            Behaviour::Fail(code, share) if fastrand::f64() < share => {
                return Err(Status::new(code, "failed on command"));
            }
            Behaviour::Hang => std::future::pending().await,
            Behaviour::Normal | Behaviour::Fail(..) => sleep(work).await,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_a_line() {
        assert_eq!(
            "slow 500ms".parse(),
            Ok(Command::SetBehaviour(Behaviour::Delay(Duration::from_millis(500))))
        );
        assert_eq!("half INTERNAL".parse(), Ok(Command::SetBehaviour(Behaviour::Fail(Code::Internal, 0.5))));
        assert_eq!("unhealthy".parse(), Ok(Command::SetHealthy(false)));
        assert!("fail OK".parse::<Command>().is_err() && "dance".parse::<Command>().is_err());
    }
}
