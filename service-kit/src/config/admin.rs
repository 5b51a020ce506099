//! Who is admin before anybody could have been made one.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use secrecy::{ExposeSecret, SecretString};

/// The settings of the first admin, of which user-service takes note.
#[derive(Args, Clone, Debug)]
pub struct AdminSettings {
    /// The email address of the first admin, whose account user-service makes at its start [default: none is
    /// made]
    #[arg(
        id = "admin_email",
        long = "admin-email",
        alias = "admin_email",
        env = "ADMIN_EMAIL",
        value_name = "ADDRESS"
    )]
    pub email: Option<String>,

    /// The first admin's password, 12 to 128 characters.
    #[arg(id = "admin_password", long = "admin-password", alias = "admin_password", env = "ADMIN_PASSWORD", value_name = "PASSWORD", hide_env_values = true,
        value_parser = super::secret)]
    pub password: Option<SecretString>,

    /// A file that holds the first admin's password.
    #[arg(
        id = "admin_password_file",
        long = "admin-password-file",
        alias = "admin_password_file",
        env = "ADMIN_PASSWORD_FILE",
        value_name = "FILE"
    )]
    pub password_file: Option<PathBuf>,
}

/// Whom user-service makes admin at its start.
#[derive(Clone, Debug)]
pub struct FirstAdmin {
    /// The email address of the account.
    pub email: String,
    /// The password of the account.
    pub password: SecretString,
}

impl AdminSettings {
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

/// Without the line break that an editor leaves at the end.
fn read(path: &Path) -> anyhow::Result<SecretString> {
    let text = std::fs::read_to_string(path);
    let text = SecretString::from(
        text.with_context(|| format!("could not read ADMIN_PASSWORD_FILE {}", path.display()))?,
    );
    Ok(text.expose_secret().trim_end_matches(['\r', '\n']).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(
        email: Option<&str>,
        password: Option<&str>,
        file: Option<&Path>,
    ) -> anyhow::Result<Option<FirstAdmin>> {
        AdminSettings {
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

    #[test]
    fn the_password_may_stand_in_a_file() {
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
