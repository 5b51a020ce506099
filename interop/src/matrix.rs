//! Runs every case in every direction.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::timeout;

use crate::{
    cases::{ALL, Case, EXCLUDED},
    cli::RunArgs,
    client::Client,
    peer::{PeerName, RunningServer},
    table::{Cell, Column, Table},
    terminal::print_line,
};

/// The time limit of one case of our client, in addition to twice its silence.
const CASE_TIMEOUT: Duration = Duration::from_secs(120);

/// Runs the selected cases; returns true when every case passed.
///
/// # Errors
/// When a case does not exist, or a peer cannot be started.
pub(crate) async fn run(args: &RunArgs) -> Result<bool> {
    let cases = selected_cases(args)?;
    if args.list {
        for case in cases {
            print_line(case.name);
        }
        for (names, why) in EXCLUDED {
            print_line(format_args!("excluded: {names}: {why}"));
        }
        return Ok(true);
    }
    let mut table = Table::new(cases.iter().map(|case| case.name));
    for &peer in &args.peers {
        peer.prepare(&args.tools)?;
        let selected: Vec<_> = cases.iter().copied().filter(|case| peer.serves(case)).collect();
        if !selected.is_empty() {
            table.add(call_peer(peer, &selected, args).await?);
        }
        let selected: Vec<_> = cases.iter().copied().filter(|case| peer.calls(case)).collect();
        if !selected.is_empty() {
            table.add(serve_peer(peer, &selected, args).await?);
        }
    }
    print_line("");
    for line in table.lines() {
        print_line(line);
    }
    let (passed, failed) = table.counts();
    print_line(format_args!("\n{passed} passed, {failed} failed"));
    Ok(failed == 0)
}

fn selected_cases(args: &RunArgs) -> Result<Vec<&'static Case>> {
    let only = &args.only;
    for name in only {
        let known = ALL.iter().any(|case| case.name == name);
        ensure!(known, "there is no case `{name}`; --list prints all");
    }
    let selected = |case: &&Case| only.is_empty() || only.iter().any(|name| name == case.name);
    Ok(ALL.iter().filter(selected).filter(|case| !(args.short && case.is_long())).collect())
}

/// Runs our client against a peer's server, with one channel for all cases, as
/// in a service.
async fn call_peer(peer: PeerName, cases: &[&'static Case], args: &RunArgs) -> Result<Column> {
    let server = peer.serve(&args.tools).await?;
    let client = Client::new(server.address, args.silence)?;
    let case_timeout = CASE_TIMEOUT + args.silence * 2;
    let mut column = Column::new(format!("ours→{}", peer.label()));
    for case in cases {
        let cell = match peer.server_lacks(case.name) {
            Some(why) => Cell::Lacks(why),
            None => match timeout(case_timeout, case.run(client.clone())).await {
                Ok(result) => Cell::of(result),
                Err(_) => Cell::Failed(format!("it did not end within {case_timeout:?}")),
            },
        };
        column.push(case.name, cell);
    }
    Ok(column)
}

/// Runs a peer's client against our server.
async fn serve_peer(peer: PeerName, cases: &[&'static Case], args: &RunArgs) -> Result<Column> {
    let server = RunningServer::ours().await?;
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
