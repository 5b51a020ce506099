//! Runs every case in every direction.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::timeout;

use crate::{
    cases::{ALL, Case, LEFT_OUT},
    cli::RunArgs,
    client::Client,
    peer::{PeerName, Running},
    say,
    table::{Cell, Column, Table},
};

/// How long one case of our client may take, beyond twice its silence.
const CASE_TIMEOUT: Duration = Duration::from_secs(120);

/// Does what the command line asks for; whether every case passed.
///
/// # Errors
/// When a case is not known, or a peer cannot be started.
pub(crate) async fn run(args: &RunArgs) -> Result<bool> {
    let cases = choose(args)?;
    if args.list {
        for case in cases {
            say(case.name);
        }
        for (names, why) in LEFT_OUT {
            say(format_args!("left out: {names}: {why}"));
        }
        return Ok(true);
    }
    let mut table = Table::new(cases.iter().map(|case| case.name));
    for &peer in &args.peers {
        peer.prepare(&args.tools)?;
        let chosen: Vec<_> = cases.iter().copied().filter(|case| peer.serves(case)).collect();
        if !chosen.is_empty() {
            table.add(theirs_serves(peer, &chosen, args).await?);
        }
        let chosen: Vec<_> = cases.iter().copied().filter(|case| peer.calls(case)).collect();
        if !chosen.is_empty() {
            table.add(ours_serves(peer, &chosen, args).await?);
        }
    }
    say("");
    for line in table.lines() {
        say(line);
    }
    let (passed, failed) = table.counts();
    say(format_args!("\n{passed} passed, {failed} failed"));
    Ok(failed == 0)
}

fn choose(args: &RunArgs) -> Result<Vec<&'static Case>> {
    let only = &args.only;
    for name in only {
        let known = ALL.iter().any(|case| case.name == name);
        ensure!(known, "there is no case `{name}`; --list shows all");
    }
    let chosen = |case: &&Case| only.is_empty() || only.iter().any(|name| name == case.name);
    Ok(ALL.iter().filter(chosen).filter(|case| !(args.short && case.is_long())).collect())
}

/// Our client against a peer's server: one channel for all cases, as a service
/// has one.
async fn theirs_serves(peer: PeerName, cases: &[&'static Case], args: &RunArgs) -> Result<Column> {
    let server = peer.serve(&args.tools).await?;
    let client = Client::new(server.address, args.silence)?;
    let limit = CASE_TIMEOUT + args.silence * 2;
    let mut column = Column::new(format!("ours→{}", peer.label()));
    for case in cases {
        let cell = match peer.server_lacks(case.name) {
            Some(why) => Cell::Lacks(why),
            None => match timeout(limit, case.run(client.clone())).await {
                Ok(result) => Cell::of(result),
                Err(_) => Cell::Failed(format!("no end within {limit:?}")),
            },
        };
        column.push(case.name, cell);
    }
    Ok(column)
}

/// A peer's client against our server.
async fn ours_serves(peer: PeerName, cases: &[&'static Case], args: &RunArgs) -> Result<Column> {
    let server = Running::ours().await?;
    let mut column = Column::new(format!("{}→ours", peer.label()));
    for case in cases {
        let cell = match peer.client_lacks(case.name) {
            Some(why) => Cell::Lacks(why),
            None => Cell::of(peer.call(&args.tools, case.name, server.address).await),
        };
        column.push(case.name, cell);
    }
    Ok(column)
}
