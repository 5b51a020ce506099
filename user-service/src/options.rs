//! The options that user-service alone has.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use service_kit::config::{secret, secret_setting};

use crate::encryption::EncryptionKeys;

/// The keys that encrypt the signing keys in the database.
#[derive(Args, Clone, Debug, Default)]
pub struct EncryptionOptions {
    /// The keys that encrypt the signing keys of tokens, a list: the first encrypts, all decrypt, `none` stands
    /// for no encryption; each is made like `auth-service-key` [default: none]
    #[arg(long, env = "AUTH_ENCRYPTION_KEYS", value_name = "KEYS", hide_env_values = true, value_parser = secret)]
    pub auth_encryption_keys: Option<SecretString>,

    /// A file with those keys
    #[arg(long, env = "AUTH_ENCRYPTION_KEYS_FILE", value_name = "FILE")]
    pub auth_encryption_keys_file: Option<PathBuf>,
}

impl EncryptionOptions {
    /// The keys; none unless set.
    ///
    /// # Errors
    /// When the list cannot be read or is invalid.
    pub fn keys(&self) -> anyhow::Result<EncryptionKeys> {
        let (text, file) = (&self.auth_encryption_keys, &self.auth_encryption_keys_file);
        let setting = secret_setting("AUTH_ENCRYPTION_KEYS", text.as_ref(), file.as_deref())?;
        let Some((keys, from)) = setting else { return Ok(EncryptionKeys::none()) };
        EncryptionKeys::parse(&keys)
            .map_err(|why| anyhow!("{from} cannot be used: {why}; make a key with `openssl rand -base64 32`"))
    }
}

/// The first admin.
#[derive(Args, Clone, Debug, Default)]
pub struct AdminOptions {
    /// The email address of the first admin, whose account is created at the start [default: none]
    #[arg(
        id = "admin_email",
        long = "admin-email",
        alias = "admin_email",
        env = "ADMIN_EMAIL",
        value_name = "ADDRESS"
    )]
    pub email: Option<String>,

    /// The first admin's password, 12 to 128 characters
    #[arg(id = "admin_password", long = "admin-password", alias = "admin_password", env = "ADMIN_PASSWORD", value_name = "PASSWORD", hide_env_values = true,
        value_parser = secret)]
    pub password: Option<SecretString>,

    /// A file with the first admin's password
    #[arg(
        id = "admin_password_file",
        long = "admin-password-file",
        alias = "admin_password_file",
        env = "ADMIN_PASSWORD_FILE",
        value_name = "FILE"
    )]
    pub password_file: Option<PathBuf>,
}

/// The first admin, whose account is created at the start.
#[derive(Clone, Debug)]
pub struct FirstAdmin {
    /// The email address of the account.
    pub email: String,
    /// The password of the account.
    pub password: SecretString,
}

impl AdminOptions {
    /// The first admin; `None` unless set.
    ///
    /// # Errors
    /// When there is an address without a password or the reverse, or the
    /// file cannot be read.
    pub fn first(&self) -> anyhow::Result<Option<FirstAdmin>> {
        let set = |text: &&str| !text.is_empty();
        let email = self.email.as_deref().filter(set);
        let password = self.password.as_ref().filter(|password| set(&password.expose_secret()));
        let file = self.password_file.as_deref().filter(|path| !path.as_os_str().is_empty());
        let password = match (password, file) {
            (Some(_), Some(_)) => {
                Err(anyhow!("ADMIN_PASSWORD and ADMIN_PASSWORD_FILE are both set; set one"))
            }
            (given, None) => Ok(given.cloned()),
            (None, Some(path)) => read(path).map(Some),
        }?;
        match (email, password) {
            (Some(email), Some(password)) => Ok(Some(FirstAdmin { email: email.to_owned(), password })),
            (None, None) => Ok(None),
            (Some(_), None) => Err(anyhow!(
                "ADMIN_EMAIL is set without a password; set ADMIN_PASSWORD or ADMIN_PASSWORD_FILE"
            )),
            (None, Some(_)) => Err(anyhow!("ADMIN_PASSWORD is set without an address; set ADMIN_EMAIL")),
        }
    }
}

/// Reads a password without the line break that an editor adds at the end.
fn read(path: &Path) -> anyhow::Result<SecretString> {
    let text = std::fs::read_to_string(path);
    let text = SecretString::from(
        text.with_context(|| format!("could not read ADMIN_PASSWORD_FILE {}", path.display()))?,
    );
    Ok(text.expose_secret().trim_end_matches(['\r', '\n']).into())
}

#[cfg(test)]
mod tests {
    use clap::{ArgMatches, Command, FromArgMatches};
    use service_kit::{config::refuse_control_characters, service::Service};

    use super::*;
    use crate::UserService;

    fn first(
        email: Option<&str>,
        password: Option<&str>,
        file: Option<&Path>,
    ) -> anyhow::Result<Option<FirstAdmin>> {
        AdminOptions {
            email: email.map(Into::into),
            password: password.map(Into::into),
            password_file: file.map(Into::into),
        }
        .first()
    }

    #[test]
    fn an_admin_has_an_address_and_a_password_or_there_is_none() {
        assert!(first(None, None, None).unwrap().is_none());
        assert!(first(Some(""), Some(""), Some(Path::new(""))).unwrap().is_none());
        let admin = first(Some("eve@example.com"), Some("hunter2"), None).unwrap().unwrap();
        assert_eq!((admin.email.as_str(), admin.password.expose_secret()), ("eve@example.com", "hunter2"));
        for half in [
            first(Some("eve@example.com"), None, None),
            first(None, Some("hunter2"), None),
            first(Some("eve@example.com"), Some("hunter2"), Some(Path::new("x"))),
        ] {
            let why = half.unwrap_err().to_string();
            assert!(why.contains("ADMIN_") && !why.contains("hunter2"), "{why}");
        }
    }

    const KEY: &str = "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=";

    fn read(args: &[&str]) -> (Command, ArgMatches) {
        let command = UserService::augment_args(Command::new("test")).no_binary_name(true);
        let matches = command.clone().try_get_matches_from(args).unwrap();
        (command, matches)
    }

    fn service(args: &[&str]) -> UserService {
        let service = UserService::from_arg_matches(&read(args).1).unwrap();
        assert!(!format!("{service:?}").contains(KEY));
        service
    }

    #[test]
    fn encryption_keys_are_read_as_the_service_key_is() {
        let keys = |args: &[&str]| {
            service(args).encryption.keys().map(|keys| keys.encrypts()).map_err(|why| format!("{why:#}"))
        };
        assert_eq!(keys(&[]), Ok(false));
        assert_eq!(keys(&["--auth-encryption-keys", ""]), Ok(false));
        assert_eq!(keys(&["--auth-encryption-keys", KEY]), Ok(true));
        assert_eq!(keys(&["--auth-encryption-keys", &format!("none,{KEY}")]), Ok(false));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        std::fs::write(&file, format!("{KEY}\nnone\n")).unwrap();
        assert_eq!(keys(&["--auth-encryption-keys-file", file.to_str().unwrap()]), Ok(true));
        for (args, cause) in [
            (["--auth-encryption-keys", "hunter2"], "AUTH_ENCRYPTION_KEYS cannot be used"),
            (["--auth-encryption-keys-file", "/nowhere/keys"], "AUTH_ENCRYPTION_KEYS_FILE /nowhere/keys"),
        ] {
            let why = keys(&args).unwrap_err();
            assert!(why.contains(cause) && !why.contains("hunter2"), "{why}");
        }
    }

    #[test]
    fn flags_have_hyphens() {
        let (mut command, _) = read(&[]);
        for flag in command.get_arguments().filter_map(|flag| flag.get_long()) {
            assert!(!flag.contains('_'), "--{flag}");
        }
        for spelling in ["--admin-email", "--admin_email"] {
            let service = service(&[spelling, "eve@example.com"]);
            assert_eq!(service.admin.email.as_deref(), Some("eve@example.com"));
        }
        let help = command.render_long_help().to_string();
        assert!(help.contains("--admin-password-file") && !help.contains("--admin_"), "{help}");
    }

    #[test]
    fn options_with_which_it_would_not_start_are_refused_without_their_values() {
        service(&[]).check().unwrap();
        for (flag, name) in
            [("--auth-encryption-keys", "AUTH_ENCRYPTION_KEYS"), ("--admin-password", "ADMIN_PASSWORD")]
        {
            let why = format!("{:#}", service(&[flag, "hunter2"]).check().unwrap_err());
            assert!(why.contains(name) && !why.contains("hunter2"), "{why}");
        }
        for (flag, name) in [
            ("--auth-encryption-keys", "AUTH_ENCRYPTION_KEYS"),
            ("--admin-email", "ADMIN_EMAIL"),
            ("--admin_password", "ADMIN_PASSWORD"),
        ] {
            let (command, matches) = read(&[flag, "hunter2\r"]);
            let why = refuse_control_characters(&command, &matches).unwrap_err().to_string();
            assert!(why.starts_with(&format!("{name} holds")) && !why.contains("hunter2"), "{why}");
        }
    }

    #[test]
    fn the_password_may_be_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        std::fs::write(&path, " hunter2 \n").unwrap();
        let admin = first(Some("eve@example.com"), None, Some(&path)).unwrap().unwrap();
        assert_eq!(admin.password.expose_secret(), " hunter2 ");
        assert!(!format!("{admin:?}").contains("hunter2"));
        let why = first(Some("eve@example.com"), None, Some(&folder.path().join("none"))).unwrap_err();
        assert!(why.to_string().contains("ADMIN_PASSWORD_FILE"));
    }
}
