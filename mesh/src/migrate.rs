//! `mesh migrate`: the databases of the shop, brought up to date.

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

use crate::{Exit, cli::MigrateArgs, out::say, services::Service, state::Files, up};

/// Brings them up to date, or only looks.
///
/// # Errors
/// When there is no such service, or a database cannot be opened or is newer
/// than this program.
pub(crate) async fn run(args: MigrateArgs) -> Result<Exit> {
    let files = Files::of(args.state_dir.as_deref())?;
    let template = up::Database::new(args.database_url.as_deref())?;
    let services = if args.services.is_empty() {
        Service::ALL.to_vec()
    } else {
        args.services.iter().map(|name| Service::named(name)).collect::<Result<_>>()?
    };
    let mut exit = Exit::Fine;
    let mut refused = Vec::new();
    for service in services {
        let url: DatabaseUrl = template.of(service, &files).parse()?;
        match bring(service, &url, args.check).await {
            Ok(true) => {}
            Ok(false) => exit = Exit::Missed,
            // The others are looked at nevertheless.
            Err(why) => refused.push(why.to_string()),
        }
    }
    if refused.is_empty() { Ok(exit) } else { anyhow::bail!(refused.join("\nmesh: ")) }
}

/// Returns whether nothing is left to do.
async fn bring(service: Service, url: &DatabaseUrl, check: bool) -> Result<bool> {
    let migrations = migrations(service);
    let found = Database::version(url, &migrations).await?;
    let SchemaVersion { current: present, target: wanted, oldest_compatible: oldest } = found;
    if found.is_too_new() {
        anyhow::bail!(
            "{service}: {url} is at version {present}, for programs that know version {oldest}, and this one knows \
             up to {wanted}; run that version or newer, or restore a copy from before it"
        );
    }
    if found.is_newer() {
        say(format!(
            "{service}: {url} is at version {present}, newer than {wanted}, and serves this program too"
        ));
        return Ok(true);
    }
    if check {
        let verdict = if found.is_up_to_date() { "up to date" } else { "would be brought up to date" };
        say(format!("{service}: {url} is at version {present} of {wanted}: {verdict}"));
        return Ok(found.is_up_to_date());
    }
    if let DatabaseUrl::Sqlite(path) = url
        && let Some(folder) = path.parent()
    {
        service_kit::private::make_folder(folder)?;
    }
    Database::open(url, &migrations).await?.close().await;
    let ran = &names(url, &migrations)[usize::try_from(present)?..];
    if ran.is_empty() {
        say(format!("{service}: {url} is at version {wanted}: nothing to do"));
    } else {
        say(format!("{service}: {url} went from version {present} to {wanted}: {}", ran.join(", ")));
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
