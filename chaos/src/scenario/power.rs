//! R23: power is lost at each acknowledgement.
//!
//! A real order-service runs under strace, which logs its writes, syncs and
//! responses in order. From that log the disk is restored as a loss of power
//! would leave it when a response left the process: without all unsynced
//! writes, and once more with a random part of them. The service's database
//! must then contain the order.

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
    setting::{self, ScenarioSetting},
    terminal::print_line,
    testbed::shop::{Plan, Service, Shop},
    verdict::ScenarioOutcome,
};

mod disk;
mod trace;

use disk::{Disk, Loss};
use trace::{Event, Reader};

/// The mechanism that is guarded.
const FULL_SYNC: &str = "synchronous=FULL_SYNC";
/// The number of concurrent orders, so that some share a commit.
const CONCURRENCY: usize = 4;
/// The losses that are tried at each acknowledgement.
const LOSSES: [Loss; 2] = [Loss::Everything, Loss::Some];
/// The length of an order's id.
const ORDER_ID_LENGTH: usize = 36;

pub(super) async fn run(setting: ScenarioSetting) -> Result<ScenarioOutcome> {
    // A database server's disk is not traced.
    let setting = ScenarioSetting { db: setting::Database::Sqlite, ..setting };
    let customers = setting.sized(40, 240, 600);
    let log = setting.logs.join("order-service.strace");
    let command = trace::command(log.to_str().context("a folder whose name is not text")?);
    let one = Service::ALL.into_iter().fold(Plan::new(&setting), |plan, service| plan.replicas(service, 1));
    let mut shop = Shop::start(one.wrap(Service::Order, &command)).await?;
    shop.add_product("tea", 499, 10_000_000).await?;
    let acknowledged = order(&shop, customers).await?;
    let index = *shop.indices_of(Service::Order).first().context("no order-service")?;
    let listen = shop.replicas[index].1.listen;
    shop.replicas[index].1.stop().await?;

    let mut replay = Replay { skips_commit_syncs: setting.is_disabled(FULL_SYNC), ..Replay::default() };
    let disk = replay.replay(&log, shop.files()?, listen, &acknowledged, &setting.logs).await?;
    ensure!(disk.matches_real_files(), "the log of {} is not what its disk has", log.display());
    // The log is large and no longer needed.
    let _ = fs::remove_file(&log);
    Ok(evaluate(&replay, &acknowledged))
}

/// Places an order for each of so many customers; returns the acknowledged
/// order ids.
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
    let ids: Vec<Result<String>> = buying.buffer_unordered(CONCURRENCY).collect().await;
    ids.into_iter().collect()
}

/// A database after a loss of power, and its temporary folder.
struct RestoredDatabase {
    database: Database,
    _folder: TempDir,
}

/// The results of all losses of power.
#[derive(Debug, Default)]
struct Replay {
    skips_commit_syncs: bool,
    /// The acknowledgements that were found in the log.
    found: HashSet<String>,
    /// The number of losses of power, each at another state of the disk.
    losses: usize,
    lost: Vec<String>,
    /// The databases that could not be opened.
    broken: Vec<String>,
}

impl Replay {
    /// Replays the log, with a loss of power at each acknowledgement; returns
    /// the final disk.
    async fn replay(
        &mut self,
        log: &Path,
        data: &Path,
        listen: SocketAddr,
        acknowledged: &HashSet<String>,
        logs: &Path,
    ) -> Result<Disk> {
        let (mut disk, mut reader) = (Disk::new(data, self.skips_commit_syncs), Reader::default());
        let own_socket = format!("[{listen}->");
        let mut restored: Option<(u64, Vec<RestoredDatabase>)> = None;
        let file = File::open(log).with_context(|| format!("could not read {}", log.display()))?;
        for line in BufReader::new(file).lines() {
            for event in reader.read(&line.context("the log cannot be read")?) {
                let Event::Sent { socket, bytes } = event else {
                    disk.apply_event(event);
                    continue;
                };
                if !socket.starts_with(&own_socket) {
                    continue;
                }
                let is_new = |id: &&str| acknowledged.contains(*id) && !self.found.contains(*id);
                let ids: Vec<_> = ids(&bytes).filter(is_new).map(str::to_owned).collect();
                if ids.is_empty() {
                    continue;
                }
                if restored.as_ref().is_none_or(|(version, _)| *version != disk.version) {
                    close(restored.take()).await;
                    restored = Some((disk.version, self.lose_power(&disk, logs).await?));
                }
                let (_, databases) = restored.as_ref().context("a loss of power without its disk")?;
                self.check_orders(ids, databases).await;
            }
        }
        close(restored).await;
        Ok(disk)
    }

    /// Restores and opens the database after each kind of loss.
    async fn lose_power(&mut self, disk: &Disk, logs: &Path) -> Result<Vec<RestoredDatabase>> {
        let mut databases = Vec::new();
        for loss in LOSSES {
            self.losses += 1;
            let folder = tempfile::Builder::new().prefix("power-").tempdir_in(logs);
            let folder = folder.context("could not make a folder")?;
            disk.restore(loss, folder.path()).context("could not write what is left")?;
            let url = DatabaseUrl::Sqlite(folder.path().join("order.db"));
            match Database::open(&url, &OrderService::MIGRATIONS).await {
                Ok(database) => databases.push(RestoredDatabase { database, _folder: folder }),
                Err(why) => self.broken.push(format!("after a loss of {loss:?}: {why}")),
            }
        }
        Ok(databases)
    }

    async fn check_orders(&mut self, ids: Vec<String>, databases: &[RestoredDatabase]) {
        for id in ids {
            // A database that does not open has lost everything.
            let mut is_there = databases.len() == LOSSES.len();
            for RestoredDatabase { database, .. } in databases {
                let sql = "SELECT 1 AS there FROM orders WHERE order_id = $1 AND state <> 'pending'";
                let row = database.row(sql, &[id.as_str().into()]).await;
                is_there &= row.is_ok_and(|row| row.is_some());
            }
            if !is_there {
                self.lost.push(id.clone());
            }
            self.found.insert(id);
        }
    }
}

async fn close(restored: Option<(u64, Vec<RestoredDatabase>)>) {
    for RestoredDatabase { database, _folder } in restored.into_iter().flat_map(|(_, databases)| databases) {
        database.close().await;
    }
}

/// The parts of these bytes that look like an order's id.
fn ids(bytes: &[u8]) -> impl Iterator<Item = &str> {
    let is_id = |id: &&[u8]| [8, 13, 18, 23].into_iter().all(|at| id[at] == b'-');
    bytes.windows(ORDER_ID_LENGTH).filter(is_id).filter_map(|id| std::str::from_utf8(id).ok())
}

fn evaluate(replay: &Replay, acknowledged: &HashSet<String>) -> ScenarioOutcome {
    print_line(format_args!("    {} states of the disk checked", replay.losses));
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
    let unseen = acknowledged.len() - replay.found.len();
    outcome.at_most("acknowledgements not in the log", unseen, 0, "chaos/scenario/power/trace.rs");
    outcome
}
