//! The shop's services, served by this program.

use anyhow::{Context, Result};
use cart_service::CartService;
use clap::{Args, ValueEnum};
use mesh_proto::shop::order::v1::order_service_server::OrderServiceServer;
use order_service::{OrderService, Orders};
use payment_service::PaymentService;
use product_service::ProductService;
use registry_client::server::shutdown_signal;
use rustix::process::{Signal, set_parent_process_death_signal};
use service_kit::{
    config::ServiceConfig,
    database::Migrations,
    events::{Events, Outbox},
    service::{self, ServiceBuilder, ServiceContext},
    telemetry,
};
use user_service::UserService;

use super::keyless::{KeylessPayments, ONE_KEY};
use super::lossy::{Losses, LossyUserService};

/// The mechanism that resumes the work of a dead replica.
pub(crate) const RECOVERY: &str = "recovery";

/// A service of the shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Service {
    #[value(name = "user-service")]
    User,
    #[value(name = "product-service")]
    Product,
    #[value(name = "cart-service")]
    Cart,
    #[value(name = "payment-service")]
    Payment,
    #[value(name = "order-service")]
    Order,
}

impl Service {
    /// All services; callees before their callers.
    pub(crate) const ALL: [Self; 5] = [Self::User, Self::Product, Self::Cart, Self::Payment, Self::Order];

    /// The name that the service is registered under.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::User => user_service::NAME,
            Self::Product => product_service::NAME,
            Self::Cart => cart_service::NAME,
            Self::Payment => payment_service::NAME,
            Self::Order => order_service::NAME,
        }
    }

    /// The short name, which its database has.
    pub(crate) fn short_name(self) -> &'static str {
        self.name().trim_end_matches("-service")
    }
}

/// A replica of a service of the shop, configured by its environment.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServeArgs {
    #[arg(value_enum)]
    service: Service,
    /// The mechanism that is switched off.
    #[arg(long, value_name = "MECHANISM")]
    without: Option<String>,
    #[command(flatten)]
    losses: Losses,
    #[command(flatten)]
    config: ServiceConfig,
    #[command(flatten)]
    order: OrderService,
    #[command(flatten)]
    payment: PaymentService,
    #[command(flatten)]
    user: UserService,
}

/// `chaos serve-shop`: runs one replica until SIGTERM or the end of its parent
/// process.
///
/// # Errors
/// When it cannot run.
pub(crate) async fn serve(args: ServeArgs) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("could not set the parent-death signal")?;
    let ServeArgs { service, without, losses, config, order, payment, user } = args;
    telemetry::init(&config.log);
    let shutdown = Box::pin(shutdown_signal());
    if service == Service::Payment && without.as_deref() == Some(ONE_KEY) {
        return service::run(KeylessPayments(payment), config, shutdown).await;
    }
    match service {
        Service::User if losses.is_enabled() => {
            Box::pin(service::run(LossyUserService(losses), config, shutdown)).await
        }
        Service::User => Box::pin(service::run(user, config, shutdown)).await,
        Service::Product => Box::pin(service::run(ProductService, config, shutdown)).await,
        Service::Cart => Box::pin(service::run(CartService, config, shutdown)).await,
        Service::Payment => Box::pin(service::run(payment, config, shutdown)).await,
        Service::Order if without.as_deref() == Some(RECOVERY) => {
            Box::pin(service::run(OrderServiceWithoutRecovery(order), config, shutdown)).await
        }
        Service::Order => Box::pin(service::run(order, config, shutdown)).await,
    }
}

/// An order-service that does not resume the work of dead replicas.
struct OrderServiceWithoutRecovery(OrderService);

impl service::Service for OrderServiceWithoutRecovery {
    const NAME: &'static str = OrderService::NAME;
    const VERSION: &'static str = OrderService::VERSION;
    const MIGRATIONS: Migrations = OrderService::MIGRATIONS;

    async fn build(&self, context: &ServiceContext, builder: ServiceBuilder) -> Result<ServiceBuilder> {
        let outbox = Outbox::of(context, Self::NAME, order_service::store::SUBSCRIBERS);
        let orders = Orders::new(self.0.sagas(context, outbox)?, builder.drain());
        let builder = builder.serve(OrderServiceServer::new(orders));
        Ok(Events::of(context, Self::NAME).send(outbox).add_to(builder))
    }
}
