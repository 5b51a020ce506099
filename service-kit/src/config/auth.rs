//! Whether callers are asked who they are.

use std::path::Path;

use anyhow::{Context, bail};
use clap::ValueEnum;
use secrecy::{ExposeSecret, SecretString};
use tracing::warn;

use super::ServiceConfig;
use crate::auth::{Auth, Seed};

/// Whether callers are asked who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Asked {
    /// Every call is, but those that are for everybody.
    On,
    /// None is: whoever reaches the service may do everything.
    Off,
}

impl Asked {
    /// The setting as it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

impl ServiceConfig {
    /// How callers of `service` are asked who they are. Says so where none is.
    ///
    /// # Errors
    /// When nobody would be asked on an address that others reach, or there is
    /// no key, or none that can be used.
    pub fn auth(&self, service: &'static str) -> anyhow::Result<Auth> {
        match self.auth {
            Asked::On => Auth::on(service, self.service_key()?),
            Asked::Off if !self.listen.ip().to_canonical().is_loopback() => bail!(
                "AUTH=off lets whoever reaches {} do everything; listen on this machine only, by LISTEN=127.0.0.1:0 \
                 or another port, or set AUTH=on and AUTH_SERVICE_KEY",
                self.listen
            ),
            Asked::Off => {
                warn!(service, "callers of {service} are not asked who they are, for AUTH is off");
                Ok(Auth::off())
            }
        }
    }

    fn service_key(&self) -> anyhow::Result<Seed> {
        let text = self.auth_service_key.as_ref().filter(|text| !text.expose_secret().is_empty());
        let file = self.auth_service_key_file.as_deref().filter(|file| !file.as_os_str().is_empty());
        let (seed, from) = match (text, file) {
            (Some(text), None) => (Seed::parse(text), "AUTH_SERVICE_KEY".to_owned()),
            (None, Some(file)) => {
                (Seed::parse(&read(file)?), format!("AUTH_SERVICE_KEY_FILE {}", file.display()))
            }
            (Some(_), Some(_)) => bail!("AUTH_SERVICE_KEY and AUTH_SERVICE_KEY_FILE are both set; unset one"),
            (None, None) => bail!(
                "AUTH is on, and there is no key that the shop's services know each other by: make one with \
                 `openssl rand -base64 32` and give it to each of them as AUTH_SERVICE_KEY, or a file with it as \
                 AUTH_SERVICE_KEY_FILE; or set AUTH=off, on a machine where nobody else is"
            ),
        };
        seed.with_context(|| format!("{from} cannot be used; make another with `openssl rand -base64 32`"))
    }
}

fn read(file: &Path) -> anyhow::Result<SecretString> {
    let text = std::fs::read_to_string(file).with_context(|| {
        format!(
            "could not read AUTH_SERVICE_KEY_FILE {}; let this user read it, or name another",
            file.display()
        )
    })?;
    Ok(text.into())
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
    fn callers_are_asked_unless_that_is_turned_off() {
        assert_eq!(auth(&["--auth-service-key", KEY]), Ok(true));
        assert_eq!(auth(&["--auth", "off"]), Ok(false));
        assert_eq!(auth(&["--auth", "off", "--listen", "[::1]:0"]), Ok(false));
    }

    #[test]
    fn nobody_is_left_unasked_where_others_reach() {
        for listen in ["0.0.0.0:50051", "[::]:0", "192.0.2.7:0", "[::ffff:192.0.2.7]:0"] {
            let why = auth(&["--auth", "off", "--listen", listen]).unwrap_err();
            assert!(
                why.contains(listen) && why.contains("LISTEN=127.0.0.1") && why.contains("AUTH=on"),
                "{why}"
            );
        }
    }

    #[test]
    fn a_key_that_is_missing_or_bad_is_said_with_how_to_make_one() {
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
    fn data_that_others_can_read_is_refused_while_callers_are_asked() {
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
        // Of a folder that the operator names only the database itself is asked.
        let file = data.join("elsewhere.db");
        let url = format!("sqlite:{}", file.display());
        assert_eq!(check(&["--database-url", &url]), Ok(()));
        fs::write(&file, "").unwrap();
        open(&file, 0o644);
        let why = check(&["--database-url", &url]).unwrap_err();
        assert!(why.contains(&format!("`chmod 600 {}`", file.display())), "{why}");
    }
}
