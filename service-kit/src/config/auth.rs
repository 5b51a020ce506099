//! The settings of authentication.

use std::path::Path;

use anyhow::{Context, bail};
use clap::ValueEnum;
use secrecy::{ExposeSecret, SecretString};
use tracing::warn;

use super::ServiceConfig;
use crate::auth::{Auth, Seed};

/// The mode of authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AuthMode {
    /// Callers of all methods but the public ones are authenticated.
    On,
    /// No caller is authenticated, and every caller may do everything.
    Off,
}

impl AuthMode {
    /// The text of the setting.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

impl ServiceConfig {
    /// The authentication of callers of `service`. Logs a warning when it is off.
    ///
    /// # Errors
    /// When it is off on an address that other machines reach, or the key is
    /// missing or invalid.
    pub fn auth(&self, service: &'static str) -> anyhow::Result<Auth> {
        match self.auth {
            AuthMode::On => Auth::on(service, self.service_key()?),
            AuthMode::Off if !self.listen.ip().to_canonical().is_loopback() => bail!(
                "AUTH=off lets every caller that reaches {} do everything; listen on this machine only with \
                 LISTEN=127.0.0.1:0 or another port, or set AUTH=on and AUTH_SERVICE_KEY",
                self.listen
            ),
            AuthMode::Off => {
                warn!(service, "AUTH is off: {service} does not authenticate its callers");
                Ok(Auth::off())
            }
        }
    }

    fn service_key(&self) -> anyhow::Result<Seed> {
        let (text, file) = (&self.auth_service_key, &self.auth_service_key_file);
        let Some((key, from)) = secret_setting("AUTH_SERVICE_KEY", text.as_ref(), file.as_deref())? else {
            bail!(
                "AUTH is on, and AUTH_SERVICE_KEY is not set, by which the shop's services authenticate to each \
                 other: make a key with `openssl rand -base64 32` and set it for all services as AUTH_SERVICE_KEY, \
                 or in a file as AUTH_SERVICE_KEY_FILE; or set AUTH=off, on a machine without other users"
            )
        };
        Seed::parse(&key)
            .with_context(|| format!("{from} cannot be used; make another with `openssl rand -base64 32`"))
    }
}

/// Reads a secret from the setting `name` or from the file that `name_FILE`
/// names, and returns it with its source; `None` when neither is set.
///
/// # Errors
/// When both are set, or the file cannot be read.
pub fn secret_setting(
    name: &str,
    text: Option<&SecretString>,
    file: Option<&Path>,
) -> anyhow::Result<Option<(SecretString, String)>> {
    let text = text.filter(|text| !text.expose_secret().is_empty());
    let file = file.filter(|file| !file.as_os_str().is_empty());
    match (text, file) {
        (Some(text), None) => Ok(Some((text.clone(), name.to_owned()))),
        (None, Some(file)) => {
            let from = format!("{name}_FILE {}", file.display());
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("could not read {from}; let this user read it, or name another"))?;
            Ok(Some((text.into(), from)))
        }
        (Some(_), Some(_)) => bail!("{name} and {name}_FILE are both set; unset one"),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command, FromArgMatches};

    use super::*;

    const KEY: &str = "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=";

    fn auth(args: &[&str]) -> Result<bool, String> {
        let command = ServiceConfig::augment_args(Command::new("test")).no_binary_name(true);
        let config = ServiceConfig::from_arg_matches(&command.get_matches_from(args)).unwrap();
        assert!(!format!("{config:?}").contains(KEY));
        config.auth("cart-service").map(|auth| auth.is_on()).map_err(|why| format!("{why:#}"))
    }

    #[test]
    fn callers_are_authenticated_unless_that_is_turned_off() {
        assert_eq!(auth(&["--auth-service-key", KEY]), Ok(true));
        assert_eq!(auth(&["--auth", "off"]), Ok(false));
        assert_eq!(auth(&["--auth", "off", "--listen", "[::1]:0"]), Ok(false));
    }

    #[test]
    fn authentication_cannot_be_off_where_other_machines_reach() {
        for listen in ["0.0.0.0:50051", "[::]:0", "192.0.2.7:0", "[::ffff:192.0.2.7]:0"] {
            let why = auth(&["--auth", "off", "--listen", listen]).unwrap_err();
            assert!(
                why.contains(listen) && why.contains("LISTEN=127.0.0.1") && why.contains("AUTH=on"),
                "{why}"
            );
        }
    }

    #[test]
    fn a_missing_or_invalid_key_is_reported_with_how_to_make_one() {
        let none = auth(&[]).unwrap_err();
        assert!(none.contains("openssl rand -base64 32") && none.contains("AUTH=off"), "{none}");
        let bad = auth(&["--auth-service-key", "hunter2"]).unwrap_err();
        assert!(
            bad.contains("openssl") && bad.contains("32 random bytes") && !bad.contains("hunter2"),
            "{bad}"
        );
        let both = auth(&["--auth-service-key", KEY, "--auth-service-key-file", "/k"]).unwrap_err();
        assert!(both.contains("both"), "{both}");
        let missing = auth(&["--auth-service-key-file", "/nowhere/key"]).unwrap_err();
        assert!(missing.contains("/nowhere/key") && missing.contains("No such file"), "{missing}");
    }

    #[test]
    fn a_key_is_read_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        std::fs::write(&file, format!("{KEY}\n")).unwrap();
        assert_eq!(auth(&["--auth-service-key-file", file.to_str().unwrap()]), Ok(true));
        std::fs::write(&file, "hunter2").unwrap();
        let why = auth(&["--auth-service-key-file", file.to_str().unwrap()]).unwrap_err();
        assert!(why.contains(file.to_str().unwrap()) && !why.contains("hunter2"), "{why}");
    }

    #[test]
    fn data_that_others_can_read_is_refused_while_callers_are_authenticated() {
        use std::{fs, os::unix::fs::PermissionsExt};
        let state = tempfile::tempdir().unwrap();
        let check = |more: &[&str]| {
            let args = [&["--state-dir", state.path().to_str().unwrap()], more].concat();
            let command = ServiceConfig::augment_args(Command::new("test")).no_binary_name(true);
            let config = ServiceConfig::from_arg_matches(&command.get_matches_from(args)).unwrap();
            let url = config.database("user-service").unwrap();
            config.check_privacy("user-service", &url).map_err(|why| why.to_string())
        };
        assert_eq!(check(&[]), Ok(()));
        let data = state.path().join("data");
        let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        open(&data, 0o755);
        let why = check(&[]).unwrap_err();
        assert!(why.contains(&format!("`chmod 700 {}`", data.display())), "{why}");
        assert_eq!(check(&["--auth", "off"]), Ok(()));
        // In a folder that the operator names only the database itself is checked.
        let file = data.join("elsewhere.db");
        let url = format!("sqlite:{}", file.display());
        assert_eq!(check(&["--database-url", &url]), Ok(()));
        fs::write(&file, "").unwrap();
        open(&file, 0o644);
        let why = check(&["--database-url", &url]).unwrap_err();
        assert!(why.contains(&format!("`chmod 600 {}`", file.display())), "{why}");
    }
}
