//! R33: the instances are grpc-go servers, which know nothing of us.

use std::{fs, process::Command};

use anyhow::{Context, Result};
use futures_util::future::BoxFuture;

use super::{deadlines, freeze, kill, misbehave};
use crate::{
    bed::{Make, Setting},
    cli::Size,
    verdict::Outcome,
};

/// A part: its name, and how it is run.
type Part = (&'static str, fn(Setting) -> BoxFuture<'static, Result<Outcome>>);

/// The scenarios that are run again with stock grpc-go servers.
const ORIGINALS: [Part; 6] = [
    ("R1", |setting| Box::pin(kill::run(setting))),
    ("R6", |setting| Box::pin(misbehave::failing(setting))),
    ("R3", |setting| Box::pin(freeze::run(setting))),
    ("R5", |setting| Box::pin(misbehave::slow(setting))),
    ("R7", |setting| Box::pin(misbehave::half(setting))),
    ("R12", |setting| Box::pin(deadlines::run(setting))),
];
/// How many of them the quick form runs: together with [`QUICK_ENDS`] they
/// take about a minute.
const QUICK_ORIGINALS: usize = 2;

/// How calls end without a status, as the program is told.
const ENDS: [&str; 6] =
    ["fail reset", "fail no-trailers", "fail page", "fail error-page", "fail panic", "hang"];
/// How many of them the quick form runs.
const QUICK_ENDS: usize = 3;

pub(super) async fn run(setting: Setting) -> Result<Outcome> {
    let program = &setting.grpc_go;
    let asked = Command::new(program).arg("-version").output();
    asked.with_context(|| format!("could not start {}; `cargo xtask setup` builds it", program.display()))?;
    let mut outcome = Outcome { fault: "grpc-go servers as the instances".to_owned(), ..Outcome::default() };
    let all = ORIGINALS.len();
    for (name, part) in ORIGINALS.into_iter().take(setting.sized(QUICK_ORIGINALS, all, all)) {
        let setting = part_of(&setting, name, Make::GrpcGo)?;
        outcome.add(name, part(setting).await.with_context(|| name)?);
    }
    for end in ENDS.into_iter().take(setting.sized(QUICK_ENDS, ENDS.len(), ENDS.len())) {
        let setting = part_of(&setting, end, Make::GoHttp)?;
        let part = Box::pin(misbehave::without_status(setting, end)).await;
        outcome.add(end, part.with_context(|| end)?);
    }
    if setting.size > Size::Quick {
        let part = part_of(&setting, "R7 by resets", Make::GoHttp)?;
        let part = Box::pin(misbehave::half_of(part, "half reset")).await;
        outcome.add("R7 by resets", part.context("R7 by resets")?);
    }
    Ok(outcome)
}

/// The same setting with these instances, and logs of its own.
fn part_of(setting: &Setting, name: &str, make: Make) -> Result<Setting> {
    let logs = setting.logs.join(name.replace(' ', "-"));
    fs::create_dir_all(&logs).with_context(|| format!("could not create {}", logs.display()))?;
    Ok(Setting { make, logs, ..setting.clone() })
}
