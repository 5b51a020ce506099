//! The whole shop: a registry, replicas of every service on one database each,
//! every one a real process that can be killed and comes back where it was.
//!
//! A scenario plans it, starts it, and calls it through [`Clients`]:
//!
//! ```ignore
//! let plan = Plan::new(&setting).replicas(Service::Order, 3).env(Service::Payment, "PAYMENT_FAULTS", "…");
//! let mut shop = Shop::start(plan).await?;
//! shop.sell("tea", 499, 1_000).await?;
//! let clients = shop.clients()?;
//! let (answers, kills) = shop.while_killing(&[Service::Order], buy(clients)).await?;
//! let books = shop.settled(&customers, SETTLED).await?;
//! books.judge(&mut outcome);
//! ```

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use mesh_proto::{
    google::r#type::Money,
    shop::{
        order::v1::order_service_client::OrderServiceClient,
        product::v1::{CreateProductRequest, Product, SetStockRequest},
    },
};
use registry_client::{
    Mesh,
    consul::{Client, ConsulResolver},
    resolve::{Resolver, fixed::FixedResolver},
};
use tokio::time::{sleep, timeout};

use super::{Registry, RegistryKind, Replica, ScenarioSetting, passes, ports};

mod audit;
mod clients;
mod keyless;
pub(crate) mod lossy;
mod nats;
mod plan;
mod postgres;
mod service;
mod store;

pub(crate) use audit::Audit;
pub(crate) use clients::{Clients, RetriedCall, retry_until_definite};
pub(crate) use keyless::ONE_KEY;
use nats::Nats;
pub(crate) use plan::Plan;
use postgres::Postgres;
pub(crate) use service::{RECOVERY, ServeArgs, Service, serve};
use store::Store;

/// How long replicas may take until the registry shows them passing.
const UP: Duration = Duration::from_secs(60);
/// What one call of a scenario may take, with all its attempts.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long a killed replica stays away, and how long until the next one is
/// killed: drawn from between these, in milliseconds.
const AWAY: std::ops::Range<u64> = 20..400;
const QUIET: std::ops::Range<u64> = 200..1_000;

/// A shop that runs.
#[derive(Debug)]
pub(crate) struct Shop {
    pub(crate) setting: ScenarioSetting,
    pub(crate) registry: Registry,
    /// Of all services, in the order of [`Service::ALL`].
    pub(crate) replicas: Vec<(Service, Replica)>,
    /// Where what it sells began: SKU and pieces.
    sold: Vec<(String, i64)>,
    consul: Client,
    nats: Option<Nats>,
    /// The last to be dropped.
    store: Store,
}

impl Shop {
    /// Starts everything that `plan` has, and waits until all pass.
    ///
    /// # Errors
    /// When something does not come up; holds its last words.
    pub(crate) async fn start(plan: Plan) -> Result<Self> {
        let setting = plan.setting.clone();
        let store = Store::start(&plan).await?;
        let nats = if plan.nats { Some(Nats::start(&setting).await?) } else { None };
        let registry = Registry::start(RegistryKind::Dev, &setting).await?;
        let consul = registry.client()?;
        let (replicas, sold) = (Vec::new(), Vec::new());
        let mut shop = Self { setting, registry, replicas, sold, consul, nats, store };
        for service in Service::ALL {
            for n in 1..=plan.count(service) {
                shop.add(&plan, service, n)?;
            }
        }
        shop.all_passing().await?;
        Ok(shop)
    }

    fn add(&mut self, plan: &Plan, service: Service, n: usize) -> Result<()> {
        let listen = ports::free()?;
        let registry = self.registry.url();
        let mut env = vec![
            ("AUTH".to_owned(), "off".to_owned()),
            ("CONSUL_HTTP_ADDR".to_owned(), registry),
            ("CONSORT_STATE_DIR".to_owned(), self.setting.logs.join("state").display().to_string()),
            ("CONSORT_KEEPALIVE_TIME".to_owned(), "1s".to_owned()),
            ("CONSORT_KEEPALIVE_TIMEOUT".to_owned(), "500ms".to_owned()),
            ("LISTEN".to_owned(), listen.to_string()),
            ("DATABASE_URL".to_owned(), self.store.url(&plan.database(service, n))),
        ];
        env.extend(self.nats.as_ref().map(|nats| ("NATS_URL".to_owned(), nats.url())));
        let words = plan.words(service, env)?;
        let name = format!("{}-{n}", service.name());
        let replica = Replica::of(&name, service.name(), listen, words, &self.setting)?;
        self.replicas.push((service, replica));
        Ok(())
    }

    /// Waits until the registry shows every replica passing.
    ///
    /// # Errors
    /// When that takes too long.
    pub(crate) async fn all_passing(&self) -> Result<()> {
        for (service, replica) in &self.replicas {
            let mut view = ConsulResolver::new(self.consul.clone()).resolve(&service.name().parse()?);
            let waited = timeout(UP, view.wait_for(|now| passes(now, &replica.id))).await;
            let words = || format!("{} does not pass within {UP:?}:\n{}", replica.id, replica.log_tail());
            waited.with_context(words)??;
        }
        Ok(())
    }

    /// Clients of every service through a mesh of their own, which sends again
    /// to another replica what may be sent again.
    ///
    /// # Errors
    /// Never in fact: the settings are ours.
    pub(crate) fn clients(&self) -> Result<Clients> {
        let mut config = self.setting.channel_config();
        config.deadline = DEADLINE;
        let mesh = Mesh::builder()
            .consul(self.consul.clone())
            .channel_config(config)
            .descriptors(mesh_proto::FILE_DESCRIPTOR_SET)
            .build()?;
        Ok(Clients::through(&mesh))
    }

    /// The same, except that orders are asked of one replica alone, each time
    /// just once.
    ///
    /// # Errors
    /// Never in fact: the settings are ours.
    pub(crate) fn clients_of(&self, replica: &Replica) -> Result<Clients> {
        let mut config = self.setting.channel_config();
        config.deadline = DEADLINE;
        let there = FixedResolver::new([replica.listen]);
        let alone = Mesh::builder().consul(self.consul.clone()).resolver(there).channel_config(config);
        let orders = OrderServiceClient::new(alone.build()?.channel(replica.service));
        let mut clients = self.clients()?;
        clients.orders = orders;
        Ok(clients)
    }

    /// Sells another product, at so many cents, and has so many pieces.
    ///
    /// # Errors
    /// When product-service does not take it.
    pub(crate) async fn add_product(&mut self, sku: &str, cents: i64, pieces: i64) -> Result<()> {
        let mut products = self.clients()?.products;
        let nanos = i32::try_from(cents % 100 * 10_000_000)?;
        let price = Money { currency_code: "EUR".into(), units: cents / 100, nanos };
        let product = Product {
            product_id: sku.into(),
            title: format!("A {sku}"),
            price: Some(price),
            ..Product::default()
        };
        let created = products.create_product(CreateProductRequest { product: Some(product) }).await;
        created.with_context(|| format!("{sku} was not created"))?;
        let stock = SetStockRequest { product_id: sku.into(), available: pieces, etag: "0".into() };
        products.set_stock(stock).await.with_context(|| format!("{sku} got no stock"))?;
        self.sold.push((sku.to_owned(), pieces));
        Ok(())
    }

    /// The replicas of a service, as indices into [`Shop::replicas`].
    pub(crate) fn of(&self, service: Service) -> Vec<usize> {
        let all = self.replicas.iter().enumerate();
        all.filter(|(_, (of, _))| *of == service).map(|(index, _)| index).collect()
    }

    /// `kill -9` of a replica.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) async fn kill(&mut self, index: usize) -> Result<()> {
        self.replicas[index].1.kill().await
    }

    /// Starts a replica again where it was.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn restart(&mut self, index: usize) -> Result<()> {
        self.replicas[index].1.restart()
    }

    /// Does `work` while replicas of `victims`, drawn by chance, are killed and
    /// started again, one after the other. Then all are up again. What the work
    /// gave, and how many were killed.
    ///
    /// # Errors
    /// When a replica cannot be started.
    pub(crate) async fn while_killing<T>(
        &mut self,
        victims: &[Service],
        work: impl Future<Output = T>,
    ) -> Result<(T, usize)> {
        let victims: Vec<_> = victims.iter().flat_map(|service| self.of(*service)).collect();
        let mut work = std::pin::pin!(work);
        let mut killed = 0;
        let done = loop {
            let victim = fastrand::choice(&victims).copied();
            tokio::select! {
                biased;
                done = &mut work => break done,
                struck = self.strike(victim.context("nobody to kill")?) => struck?,
            }
            killed += 1;
        };
        for (_, replica) in &mut self.replicas {
            if !replica.is_running() {
                replica.restart()?;
            }
        }
        self.all_passing().await?;
        Ok((done, killed))
    }

    async fn strike(&mut self, victim: usize) -> Result<()> {
        sleep(Duration::from_millis(fastrand::u64(QUIET))).await;
        self.kill(victim).await?;
        sleep(Duration::from_millis(fastrand::u64(AWAY))).await;
        self.restart(victim)
    }

    /// What the shop's public methods say of these customers, of all money and
    /// of all stock, once no order is under way any more, or after `limit`.
    ///
    /// # Errors
    /// When a service does not answer.
    pub(crate) async fn settled_audit(&self, customers: &[String], limit: Duration) -> Result<Audit> {
        self.settled_at(&[(self.clients()?, customers.to_vec())], limit).await
    }

    /// The same where each has their own customers: those whose orders they are
    /// to ask for.
    ///
    /// # Errors
    /// When a service does not answer.
    pub(crate) async fn settled_at(
        &self,
        whose: &[(Clients, Vec<String>)],
        limit: Duration,
    ) -> Result<Audit> {
        Audit::settled_audit(&self.clients()?, whose, &self.sold, limit).await
    }

    /// The database server, to be killed and started again.
    ///
    /// # Errors
    /// When the data is in files.
    pub(crate) fn postgres(&mut self) -> Result<&mut Postgres> {
        self.store.postgres().context("this shop keeps its data in files")
    }

    /// The folder of the SQLite files.
    ///
    /// # Errors
    /// When the data is on a server.
    pub(crate) fn files(&self) -> Result<&Path> {
        self.store.files().context("this shop keeps its data on a server")
    }

    /// The NATS server, to be killed and started again.
    ///
    /// # Errors
    /// When the plan has none.
    pub(crate) fn nats(&mut self) -> Result<&mut Nats> {
        self.nats.as_mut().context("this shop was planned without NATS")
    }
}
