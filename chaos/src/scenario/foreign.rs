//! R33: the instances are stock grpc-go servers.

use std::{fs, process::Command};

use anyhow::{Context, Result};
use futures_util::future::BoxFuture;

use super::{deadlines, freeze, kill, misbehaving};
use crate::{
    setting::{ScenarioSetting, ServerKind, Size},
    verdict::ScenarioOutcome,
};

/// A part: its name, and the function that runs it.
type Part = (&'static str, fn(ScenarioSetting) -> BoxFuture<'static, Result<ScenarioOutcome>>);

/// The scenarios that are run again with stock grpc-go servers.
const ORIGINALS: [Part; 6] = [
    ("R1", |setting| Box::pin(kill::run(setting))),
    ("R6", |setting| Box::pin(misbehaving::failing(setting))),
    ("R3", |setting| Box::pin(freeze::run(setting))),
    ("R5", |setting| Box::pin(misbehaving::slow(setting))),
    ("R7", |setting| Box::pin(misbehaving::half(setting))),
    ("R12", |setting| Box::pin(deadlines::run(setting))),
];
/// The number of these that the quick form runs: together with [`QUICK_ENDS`]
/// they take about a minute.
const QUICK_ORIGINALS: usize = 2;

/// The ways in which calls end without a status, as commands of the program.
const CALL_ENDS: [&str; 6] =
    ["fail reset", "fail no-trailers", "fail page", "fail error-page", "fail panic", "hang"];
/// The number of these that the quick form runs.
const QUICK_ENDS: usize = 3;

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    let program = &setting.grpc_go;
    let version = Command::new(program).arg("-version").output();
    version
        .with_context(|| format!("could not start {}; `cargo xtask setup` builds it", program.display()))?;
    let mut outcome = ScenarioOutcome {
        fault: "grpc-go servers as the instances".to_owned(),
        ..ScenarioOutcome::default()
    };
    let all = ORIGINALS.len();
    for (name, part) in ORIGINALS.into_iter().take(setting.sized(QUICK_ORIGINALS, all, all)) {
        let setting = setting_of_part(&setting, name, ServerKind::GrpcGo)?;
        outcome.add(name, part(setting).await.with_context(|| name)?);
    }
    for call_end in CALL_ENDS.into_iter().take(setting.sized(QUICK_ENDS, CALL_ENDS.len(), CALL_ENDS.len())) {
        let setting = setting_of_part(&setting, call_end, ServerKind::GoHttp)?;
        let part = Box::pin(misbehaving::without_status(setting, call_end)).await;
        outcome.add(call_end, part.with_context(|| call_end)?);
    }
    if setting.size > Size::Quick {
        let part = setting_of_part(&setting, "R7 by resets", ServerKind::GoHttp)?;
        let part = Box::pin(misbehaving::half_with(part, "half reset")).await;
        outcome.add("R7 by resets", part.context("R7 by resets")?);
    }
    Ok(outcome)
}

/// The setting of a part, with these instances and logs of its own.
fn setting_of_part(
    setting: &ScenarioSetting,
    name: &str,
    server_kind: ServerKind,
) -> Result<ScenarioSetting> {
    let logs = setting.logs.join(name.replace(' ', "-"));
    fs::create_dir_all(&logs).with_context(|| format!("could not create {}", logs.display()))?;
    Ok(ScenarioSetting { server_kind, logs, ..setting.clone() })
}
