//! `mesh migrate`: migrates the databases of the shop.

use anyhow::Result;
use cart_service::CartService;
use order_service::OrderService;
use payment_service::PaymentService;
use product_service::ProductService;
use service_kit::{
    database::{Database, DatabaseUrl, Migrations, SchemaVersion},
    service::Service as _,
};
use user_service::UserService;

use crate::{cli::MigrateArgs, exit::Exit, services::Service, state::StatePaths, terminal::print_line, up};

/// Migrates the databases, or only checks them.
///
/// # Errors
/// When there is no such service, or a database cannot be opened or is newer
/// than this program.
pub(crate) async fn run(args: MigrateArgs) -> Result<Exit> {
    let files = StatePaths::of(args.state_dir.as_deref())?;
    let template = up::Database::new(args.database_url.as_deref())?;
    let services = if args.services.is_empty() {
        Service::ALL.to_vec()
    } else {
        args.services.iter().map(|name| Service::named(name)).collect::<Result<_>>()?
    };
    let mut exit = Exit::Success;
    let mut failures = Vec::new();
    for service in services {
        let url: DatabaseUrl = template.of(service, &files).parse()?;
        match migrate(service, &url, args.check).await {
            Ok(true) => {}
            Ok(false) => exit = Exit::Failed,
            // The other databases are migrated nevertheless.
            Err(why) => failures.push(why.to_string()),
        }
    }
    if failures.is_empty() { Ok(exit) } else { anyhow::bail!(failures.join("\nmesh: ")) }
}

/// Migrates one database; returns whether it is up to date.
async fn migrate(service: Service, url: &DatabaseUrl, check: bool) -> Result<bool> {
    let migrations = migrations(service);
    let version = Database::version(url, &migrations).await?;
    let SchemaVersion { current: present, target: latest, oldest_compatible: oldest } = version;
    if version.is_too_new() {
        anyhow::bail!(
            "{service}: {url} is at version {present}, which needs a program that knows version {oldest}; this one knows \
             up to {latest}; run a newer version, or restore an older copy of the database"
        );
    }
    if version.is_newer() {
        print_line(format!(
            "{service}: {url} is at version {present}, newer than {latest}; this program can use it"
        ));
        return Ok(true);
    }
    if check {
        let verdict = if version.is_up_to_date() { "up to date" } else { "would be migrated" };
        print_line(format!("{service}: {url} is at version {present} of {latest}: {verdict}"));
        return Ok(version.is_up_to_date());
    }
    if let DatabaseUrl::Sqlite(path) = url
        && let Some(folder) = path.parent()
    {
        service_kit::private::make_folder(folder)?;
    }
    Database::open(url, &migrations).await?.close().await;
    let applied = &names(url, &migrations)[usize::try_from(present)?..];
    if applied.is_empty() {
        print_line(format!("{service}: {url} is at version {latest}: nothing to do"));
    } else {
        print_line(format!(
            "{service}: {url} went from version {present} to {latest}: {}",
            applied.join(", ")
        ));
    }
    Ok(true)
}

fn names(url: &DatabaseUrl, migrations: &Migrations) -> Vec<&'static str> {
    let steps = match url {
        DatabaseUrl::Sqlite(_) => migrations.sqlite,
        DatabaseUrl::Postgres(_) => migrations.postgres,
    };
    steps.iter().map(|step| step.name).collect()
}

fn migrations(service: Service) -> Migrations {
    match service {
        Service::Cart => CartService::MIGRATIONS,
        Service::Order => OrderService::MIGRATIONS,
        Service::Product => ProductService::MIGRATIONS,
        Service::Payment => PaymentService::MIGRATIONS,
        Service::User => UserService::MIGRATIONS,
    }
}
