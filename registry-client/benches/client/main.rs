//! What a call costs the client: our channel over four instances beside
//! tonic's own. `cargo xtask bench` runs it; by hand:
//!
//! ```text
//! client serve SERVER N                       N echo servers; prints their ports
//! client calls VARIANT COUNT CALLERS PORT…    COUNT calls, nothing printed (for callgrind)
//! client compare ROUNDS PORT…                 all variants in turn, as a table
//! ```

mod compare;
mod echo;
mod variant;

use std::{env, error::Error, io::Write};

use variant::Variant;

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    // One thread: what is measured is the work of a call, not of handing it
    // from core to core.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["serve", kind, count] => runtime.block_on(serve(kind.parse()?, count.parse()?)),
        ["calls", variant, count, callers, ref ports @ ..] => {
            let variant: Variant = variant.parse()?;
            let ports = parse_ports(ports)?;
            let (count, callers) = (count.parse()?, callers.parse()?);
            runtime.block_on(async { variant.open(&ports).await?.calls(count, callers).await })
        }
        ["compare", rounds, ref ports @ ..] => {
            let ports = parse_ports(ports)?;
            let rounds = rounds.parse()?;
            let table = runtime.block_on(compare::run(rounds, &ports))?;
            Ok(writeln!(std::io::stdout(), "{table}")?)
        }
        _ => {
            Err("usage: client serve SERVER N | calls VARIANT COUNT CALLERS PORT… | compare ROUNDS PORT…"
                .into())
        }
    }
}

fn parse_ports(ports: &[&str]) -> Result<Vec<u16>, std::num::ParseIntError> {
    ports.iter().map(|port| port.parse()).collect()
}

/// Serves until standard input ends, so that the servers die with the process
/// that started them.
async fn serve(kind: echo::Kind, count: usize) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut ports = Vec::new();
    for _ in 0..count {
        ports.push(echo::start(kind).await?.to_string());
    }
    writeln!(std::io::stdout(), "{}", ports.join(" "))?;
    let wait = || std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    tokio::task::spawn_blocking(wait).await??;
    Ok(())
}
