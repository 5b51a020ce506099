//! Checks of settings without starting the service.

use anyhow::bail;
use clap::{ArgMatches, Command};
use registry_client::{AdminConfig, MeshBuilder, ServerConfig};
use secrecy::ExposeSecret;

use super::ServiceConfig;
use crate::{database::DatabaseUrl, nats::Nats};

impl ServiceConfig {
    /// Checks all that can be checked without a socket or a database; for the
    /// options of one service see [`Service::check`](crate::service::Service::check).
    ///
    /// # Errors
    /// When `service` would not start with these settings.
    pub fn check(&self, service: &'static str) -> anyhow::Result<()> {
        self.auth(service)?;
        self.advertised()?;
        if let Some(url) = self.database_url.as_ref().filter(|url| !url.expose_secret().is_empty()) {
            url.expose_secret().parse::<DatabaseUrl>()?;
        }
        if let Some(url) = self.nats_url() {
            Nats::check(url)?;
        }
        ServerConfig::from_env()?;
        drop(MeshBuilder::from_env()?);
        registry_client::consul::Client::from_env()?;
        AdminConfig::from_env()?;
        Ok(())
    }
}

/// Refuses control characters in the flags and variables of `matches`: they are
/// mistakes, and a carriage return at the end of `DATABASE_URL` would open
/// another database.
///
/// # Errors
/// When a setting has one; the error names the setting, without its value.
pub fn refuse_control_characters(command: &Command, matches: &ArgMatches) -> anyhow::Result<()> {
    for setting in command.get_arguments() {
        let Some(name) = setting.get_env() else { continue };
        let Ok(Some(mut values)) = matches.try_get_raw(setting.get_id().as_str()) else { continue };
        if values.any(|value| value.to_string_lossy().contains(char::is_control)) {
            bail!(
                "{} holds a control character, such as a line break: remove it; a file with Windows line endings \
                 has one at the end of each line",
                name.display()
            );
        }
    }
    match matches.subcommand() {
        Some((name, matches)) => match command.find_subcommand(name) {
            Some(command) => refuse_control_characters(command, matches),
            None => Ok(()),
        },
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};

    use super::*;

    fn read(args: &[&str]) -> (Command, ArgMatches) {
        let command = ServiceConfig::augment_args(Command::new("test")).no_binary_name(true);
        let matches = command.clone().try_get_matches_from(args).unwrap();
        (command, matches)
    }

    #[test]
    fn a_control_character_is_refused_by_the_name_of_the_setting() {
        for (flag, name) in [
            ("--database-url", "DATABASE_URL"),
            ("--nats-url", "NATS_URL"),
            ("--advertise", "ADVERTISE"),
            ("--auth-service-key", "AUTH_SERVICE_KEY"),
            ("--state-dir", "CONSORT_STATE_DIR"),
        ] {
            for value in ["hunter2\r", "hunter2\n", "hun\u{7f}ter2", "\thunter2"] {
                let (command, matches) = read(&[flag, value]);
                let why = refuse_control_characters(&command, &matches).unwrap_err().to_string();
                assert!(why.starts_with(&format!("{name} holds")) && !why.contains("hunter2"), "{why}");
            }
            let (command, matches) = read(&[flag, "hunter2"]);
            refuse_control_characters(&command, &matches).unwrap();
        }
    }

    #[test]
    fn flags_have_hyphens() {
        let (command, _) = read(&[]);
        for flag in command.get_arguments().filter_map(|flag| flag.get_long()) {
            assert!(!flag.contains('_'), "--{flag}");
        }
    }

    #[test]
    fn settings_that_would_not_start_are_refused() {
        let check = |args: &[&str]| {
            let (_, matches) = read(&[&["--auth", "off"], args].concat());
            let checked = ServiceConfig::from_arg_matches(&matches).unwrap().check("cart-service");
            checked.map_err(|why| format!("{why:#}"))
        };
        check(&[]).unwrap();
        for (flag, value, name) in [
            ("--database-url", "host=db password=hunter2", "DATABASE_URL"),
            ("--database-url", "postgres://shop:hun?hunter2@db/cart", "DATABASE_URL"),
            ("--nats-url", "nats://a:hunter2 b:x", "NATS_URL"),
            ("--advertise", "a b:c", "ADVERTISE"),
            ("--listen", "192.0.2.7:1", "AUTH"),
        ] {
            let why = check(&[flag, value]).unwrap_err();
            assert!(why.contains(name) && !why.contains("hunter2"), "{why}");
        }
    }
}
