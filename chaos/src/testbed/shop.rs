//! The whole shop: a registry, and replicas of every service on one database
//! each, as real processes that can be killed and restarted at their addresses.
//!
//! A scenario plans the shop, starts it, and calls it through [`Clients`]:
//!
//! ```ignore
//! let plan = Plan::new(&setting).replicas(Service::Order, 3).env(Service::Payment, "PAYMENT_FAULTS", "…");
//! let mut shop = Shop::start(plan).await?; shop.add_product("tea", 499, 1_000).await?; let clients =
//! shop.clients()?; let (answers, kills) = shop.while_killing(&[Service::Order], buy(clients)).await?; let
//! audit = shop.settled_audit(&customers, SETTLE_TIMEOUT).await?; audit.evaluate(&mut outcome);
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

use super::{Registry, RegistryKind, Replica, passes, ports};
use crate::setting::ScenarioSetting;

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

/// The limit on the time until the registry shows a replica passing.
const PASSING_TIMEOUT: Duration = Duration::from_secs(60);
/// The deadline of a call, with all its attempts.
const DEADLINE: Duration = Duration::from_secs(5);
/// The random downtime of a killed replica, and the random time until the next
/// kill, in milliseconds.
const DOWNTIME_MS: std::ops::Range<u64> = 20..400;
const KILL_INTERVAL_MS: std::ops::Range<u64> = 200..1_000;

/// A running shop.
#[derive(Debug)]
pub(crate) struct Shop {
    pub(crate) setting: ScenarioSetting,
    pub(crate) registry: Registry,
    /// The replicas of all services, in the order of [`Service::ALL`].
    pub(crate) replicas: Vec<(Service, Replica)>,
    /// The SKU and the initial stock of each product.
    products: Vec<(String, i64)>,
    consul: Client,
    nats: Option<Nats>,
    /// The data; dropped last.
    store: Store,
}

impl Shop {
    /// Starts all processes of `plan`, and waits until all pass.
    ///
    /// # Errors
    /// When a process does not start; quotes its last lines.
    pub(crate) async fn start(plan: Plan) -> Result<Self> {
        let setting = plan.setting.clone();
        let store = Store::start(&plan).await?;
        let nats = if plan.nats { Some(Nats::start(&setting).await?) } else { None };
        let registry = Registry::start(RegistryKind::Dev, &setting).await?;
        let consul = registry.client()?;
        let (replicas, products) = (Vec::new(), Vec::new());
        let mut shop = Self { setting, registry, replicas, products, consul, nats, store };
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
        let command = plan.command(service, env)?;
        let name = format!("{}-{n}", service.name());
        let replica = Replica::of(&name, service.name(), listen, command, &self.setting)?;
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
            let passing = timeout(PASSING_TIMEOUT, view.wait_for(|now| passes(now, &replica.id))).await;
            let message = || {
                format!("{} does not pass within {PASSING_TIMEOUT:?}:\n{}", replica.id, replica.log_tail())
            };
            passing.with_context(message)??;
        }
        Ok(())
    }

    /// Clients of every service through a mesh of their own, which retries
    /// idempotent calls on another replica.
    ///
    /// # Errors
    /// Never: the settings are valid.
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

    /// The same, except that calls to order-service go to one replica, without
    /// retries.
    ///
    /// # Errors
    /// Never: the settings are valid.
    pub(crate) fn clients_of(&self, replica: &Replica) -> Result<Clients> {
        let mut config = self.setting.channel_config();
        config.deadline = DEADLINE;
        let resolver = FixedResolver::new([replica.listen]);
        let mesh = Mesh::builder().consul(self.consul.clone()).resolver(resolver).channel_config(config);
        let orders = OrderServiceClient::new(mesh.build()?.channel(replica.service));
        let mut clients = self.clients()?;
        clients.orders = orders;
        Ok(clients)
    }

    /// Creates a product with a price in cents and a stock.
    ///
    /// # Errors
    /// When product-service rejects it.
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
        products.set_stock(stock).await.with_context(|| format!("the stock of {sku} was not set"))?;
        self.products.push((sku.to_owned(), pieces));
        Ok(())
    }

    /// The replicas of a service, as indices into [`Shop::replicas`].
    pub(crate) fn indices_of(&self, service: Service) -> Vec<usize> {
        let all = self.replicas.iter().enumerate();
        all.filter(|(_, (indices_of, _))| *indices_of == service).map(|(index, _)| index).collect()
    }

    /// Sends SIGKILL to a replica.
    ///
    /// # Errors
    /// When it is not running.
    pub(crate) async fn kill(&mut self, index: usize) -> Result<()> {
        self.replicas[index].1.kill().await
    }

    /// Starts a replica again at its address.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn restart(&mut self, index: usize) -> Result<()> {
        self.replicas[index].1.restart()
    }

    /// Runs `work` while random replicas of `victims` are killed and restarted,
    /// one after the other, and waits until all are up again. Returns the
    /// output of `work` and the number of kills.
    ///
    /// # Errors
    /// When a replica cannot be started.
    pub(crate) async fn while_killing<T>(
        &mut self,
        victims: &[Service],
        work: impl Future<Output = T>,
    ) -> Result<(T, usize)> {
        let victims: Vec<_> = victims.iter().flat_map(|service| self.indices_of(*service)).collect();
        let mut work = std::pin::pin!(work);
        let mut killed = 0;
        let output = loop {
            let victim = fastrand::choice(&victims).copied();
            tokio::select! {
                biased;
                output = &mut work => break output,
                restarted = self.kill_and_restart(victim.context("no replica to kill")?) => restarted?,
            }
            killed += 1;
        };
        for (_, replica) in &mut self.replicas {
            if !replica.is_running() {
                replica.restart()?;
            }
        }
        self.all_passing().await?;
        Ok((output, killed))
    }

    async fn kill_and_restart(&mut self, victim: usize) -> Result<()> {
        sleep(Duration::from_millis(fastrand::u64(KILL_INTERVAL_MS))).await;
        self.kill(victim).await?;
        sleep(Duration::from_millis(fastrand::u64(DOWNTIME_MS))).await;
        self.restart(victim)
    }

    /// Reads the orders of these customers, all money and all stock through the
    /// public methods, once no order is in progress, or after `limit`.
    ///
    /// # Errors
    /// When a service does not answer.
    pub(crate) async fn settled_audit(&self, customers: &[String], limit: Duration) -> Result<Audit> {
        self.settled_audit_of(&[(self.clients()?, customers.to_vec())], limit).await
    }

    /// The same, with the customers of each client.
    ///
    /// # Errors
    /// When a service does not answer.
    pub(crate) async fn settled_audit_of(
        &self,
        customers: &[(Clients, Vec<String>)],
        limit: Duration,
    ) -> Result<Audit> {
        Audit::settled_audit(&self.clients()?, customers, &self.products, limit).await
    }

    /// The database server, to be killed and restarted.
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

    /// The NATS server, to be killed and restarted.
    ///
    /// # Errors
    /// When the plan has none.
    pub(crate) fn nats(&mut self) -> Result<&mut Nats> {
        self.nats.as_mut().context("this shop was planned without NATS")
    }
}
