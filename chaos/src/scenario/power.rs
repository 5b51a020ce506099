//! R23: the power fails at each acknowledgement.
//!
//! A real order-service runs below strace, which writes down what it writes and
//! syncs and what it answers, in order. From that the disk is made as a loss of
//! power would leave it at the moment in which an answer left the process: with
//! nothing that was not synced by then, and once more with any part of that.
//! What the service itself would then open must have the order.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, stream};
use order_service::OrderService;
use service_kit::{
    database::{Database, DatabaseUrl},
    service::Service as _,
};
use tempfile::TempDir;
use uuid::Uuid;

use crate::{
    cli, print_line,
    testbed::{
        ScenarioSetting,
        shop::{Plan, Service, Shop},
    },
    verdict::ScenarioOutcome,
};

mod disk;
mod trace;

use disk::{Disk, Loss};
use trace::{Event, Reader};

/// The mechanism that is guarded.
const FULL: &str = "synchronous=FULL";
/// How many order at once, so that some commits are shared.
const AT_ONCE: usize = 4;
/// What is tried at each acknowledgement.
const LOSSES: [Loss; 2] = [Loss::Everything, Loss::Some];
/// Length of an order's id.
const ID: usize = 36;

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    // What a server does with its disk is its own affair.
    let setting = ScenarioSetting { db: cli::Database::Sqlite, ..setting };
    let customers = setting.sized(40, 240, 600);
    let log = setting.logs.join("order-service.strace");
    let words = trace::words(log.to_str().context("a folder whose name is not text")?);
    let one = Service::ALL.into_iter().fold(Plan::new(&setting), |plan, service| plan.replicas(service, 1));
    let mut shop = Shop::start(one.wrap(Service::Order, &words)).await?;
    shop.add_product("tea", 499, 10_000_000).await?;
    let acknowledged = order(&shop, customers).await?;
    let index = *shop.indices_of(Service::Order).first().context("no order-service")?;
    let listen = shop.replicas[index].1.listen;
    shop.replicas[index].1.stop().await?;

    let mut replay = Replay { lax: setting.is_disabled(FULL), ..Replay::default() };
    let disk = replay.replay(&log, shop.files()?, listen, &acknowledged, &setting.logs).await?;
    ensure!(disk.is_real(), "the log of {} is not what its disk has", log.display());
    // It is large, and tells only what was found now.
    let _ = fs::remove_file(&log);
    Ok(evaluate(&replay, &acknowledged))
}

/// Buys once for each of so many customers; the orders that were acknowledged.
async fn order(shop: &Shop, customers: usize) -> Result<HashSet<String>> {
    let clients = shop.clients()?;
    let buying = stream::iter(0..customers).map(|n| {
        let clients = clients.clone();
        async move {
            let customer = format!("customer-{n}");
            clients.fill(&customer, "tea", 1).await.context("could not fill a cart")?;
            let order = clients.order(&customer, &Uuid::now_v7().to_string()).await.response;
            Ok(order.context("could not order")?.order_id)
        }
    });
    let ids: Vec<Result<String>> = buying.buffer_unordered(AT_ONCE).collect().await;
    ids.into_iter().collect()
}

/// A database after a loss of power, and its folder, which goes with it.
struct Left {
    database: Database,
    _folder: TempDir,
}

/// What was left at each acknowledgement.
#[derive(Debug, Default)]
struct Replay {
    lax: bool,
    /// Acknowledgements that were found in the log.
    told: HashSet<String>,
    /// Losses of power, each at another state of the disk.
    losses: usize,
    lost: Vec<String>,
    /// Databases that could not be opened.
    broken: Vec<String>,
}

impl Replay {
    /// Reads the log, with a loss of power at each acknowledgement; the disk as
    /// it is at the end.
    async fn replay(
        &mut self,
        log: &Path,
        data: &Path,
        listen: SocketAddr,
        acknowledged: &HashSet<String>,
        logs: &Path,
    ) -> Result<Disk> {
        let (mut disk, mut reader) = (Disk::new(data, self.lax), Reader::default());
        let ours = format!("[{listen}->");
        let mut left: Option<(u64, Vec<Left>)> = None;
        let file = File::open(log).with_context(|| format!("could not read {}", log.display()))?;
        for line in BufReader::new(file).lines() {
            for event in reader.read(&line.context("the log cannot be read")?) {
                let Event::Said { socket, bytes } = event else {
                    disk.does(event);
                    continue;
                };
                if !socket.starts_with(&ours) {
                    continue;
                }
                let new = |id: &&str| acknowledged.contains(*id) && !self.told.contains(*id);
                let ids: Vec<_> = ids(&bytes).filter(new).map(str::to_owned).collect();
                if ids.is_empty() {
                    continue;
                }
                if left.as_ref().is_none_or(|(age, _)| *age != disk.age) {
                    close(left.take()).await;
                    left = Some((disk.age, self.lose_power(&disk, logs).await?));
                }
                let (_, databases) = left.as_ref().context("a loss of power without its disk")?;
                self.look(ids, databases).await;
            }
        }
        close(left).await;
        Ok(disk)
    }

    /// Opens what is left as the service would.
    async fn lose_power(&mut self, disk: &Disk, logs: &Path) -> Result<Vec<Left>> {
        let mut databases = Vec::new();
        for loss in LOSSES {
            self.losses += 1;
            let folder = tempfile::Builder::new().prefix("power-").tempdir_in(logs);
            let folder = folder.context("could not make a folder")?;
            disk.restore(loss, folder.path()).context("could not write what is left")?;
            let url = DatabaseUrl::Sqlite(folder.path().join("order.db"));
            match Database::open(&url, &OrderService::MIGRATIONS).await {
                Ok(database) => databases.push(Left { database, _folder: folder }),
                Err(why) => self.broken.push(format!("after a loss of {loss:?}: {why}")),
            }
        }
        Ok(databases)
    }

    async fn look(&mut self, ids: Vec<String>, databases: &[Left]) {
        for id in ids {
            // One that does not open has lost everything.
            let mut is_there = databases.len() == LOSSES.len();
            for Left { database, .. } in databases {
                let sql = "SELECT 1 AS there FROM orders WHERE order_id = $1 AND state <> 'pending'";
                let row = database.row(sql, &[id.as_str().into()]).await;
                is_there &= row.is_ok_and(|row| row.is_some());
            }
            if !is_there {
                self.lost.push(id.clone());
            }
            self.told.insert(id);
        }
    }
}

async fn close(left: Option<(u64, Vec<Left>)>) {
    for Left { database, _folder } in left.into_iter().flat_map(|(_, databases)| databases) {
        database.close().await;
    }
}

/// Whatever in these bytes looks like an order's id.
fn ids(bytes: &[u8]) -> impl Iterator<Item = &str> {
    let is_id = |id: &&[u8]| [8, 13, 18, 23].into_iter().all(|at| id[at] == b'-');
    bytes.windows(ID).filter(is_id).filter_map(|id| std::str::from_utf8(id).ok())
}

fn evaluate(replay: &Replay, acknowledged: &HashSet<String>) -> ScenarioOutcome {
    print_line(format_args!("    {} states of the disk looked at", replay.losses));
    let mut outcome = ScenarioOutcome {
        fault: format!("the power fails at each of {} acknowledged orders", acknowledged.len()),
        calls: acknowledged.len(),
        failed_idempotent: replay.lost.len(),
        attempts_per_call: 1.0,
        failures: replay.broken.iter().take(8).cloned().collect(),
        ..ScenarioOutcome::default()
    };
    outcome.at_most("acknowledged orders lost", replay.lost.len(), 0, "service-kit/database/sqlite/group.rs");
    outcome.at_most("databases that do not open", replay.broken.len(), 0, "service-kit/database/sqlite.rs");
    let unseen = acknowledged.len() - replay.told.len();
    outcome.at_most("acknowledgements not in the log", unseen, 0, "chaos/scenario/power/trace.rs");
    outcome
}
