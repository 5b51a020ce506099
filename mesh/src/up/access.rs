//! The authentication of callers: none, or by token.

use std::{
    ffi::OsString,
    fs::{self, File, Permissions},
    io::{ErrorKind, Write},
    net::IpAddr,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use secrecy::ExposeSecret;
use service_kit::auth::Seed;
use uuid::Uuid;

use crate::{services::Service, state::StatePaths};

/// The account that may do everything.
const ADMIN: &str = "admin@shop.example";
/// The account that the printed lines buy with.
const CUSTOMER: &str = "ada@shop.example";
/// The modes of files and folders that only this user may access.
const PRIVATE_FILE_MODE: u32 = 0o600;
const PRIVATE_FOLDER_MODE: u32 = 0o700;

/// The authentication of callers.
#[derive(Clone, Debug)]
pub(crate) enum Access {
    /// None: every call is accepted.
    Open,
    /// By token, with the secrets that the shop begins with.
    Authenticated(Secrets),
}

/// Keys and passwords, generated once, in files that only this user reads.
#[derive(Clone, Debug)]
pub(crate) struct Secrets {
    folder: PathBuf,
    pub(crate) admin: Account,
    pub(crate) customer: Account,
}

/// An account that can log in.
#[derive(Clone)]
pub(crate) struct Account {
    pub(crate) email: &'static str,
    pub(crate) password: String,
    /// The file with the login request as JSON.
    pub(crate) login: PathBuf,
}

impl Access {
    /// With `auth`, generates the secrets that do not exist yet.
    ///
    /// # Errors
    /// When a secret cannot be written or read, or if unauthenticated callers
    /// could reach `host` from other machines.
    pub(crate) fn new(auth: bool, host: IpAddr, files: &StatePaths) -> Result<Self> {
        if auth {
            return Secrets::of(files.secrets()).map(Self::Authenticated);
        }
        if !host.is_loopback() {
            bail!(
                "{host} can be reached from other machines, and callers are not authenticated: turn that on with --auth, \
                 or stay on this machine with --host 127.0.0.1"
            );
        }
        Ok(Self::Open)
    }

    /// The environment of a process of `service`.
    pub(crate) fn env(&self, service: Service) -> Vec<(&'static str, OsString)> {
        let Self::Authenticated(secrets) = self else { return vec![("AUTH", "off".into())] };
        let mut env = vec![("AUTH", "on".into()), ("AUTH_SERVICE_KEY_FILE", secrets.service_key().into())];
        if service == Service::User {
            env.push(("AUTH_ENCRYPTION_KEYS_FILE", secrets.encryption_keys().into()));
            env.push(("ADMIN_EMAIL", ADMIN.into()));
            env.push(("ADMIN_PASSWORD_FILE", secrets.admin_password().into()));
        }
        env
    }
}

impl Secrets {
    fn of(folder: PathBuf) -> Result<Self> {
        let made = fs::create_dir_all(&folder)
            .and_then(|()| fs::set_permissions(&folder, Permissions::from_mode(PRIVATE_FOLDER_MODE)));
        made.with_context(|| format!("could not make {}", folder.display()))?;
        read_or_create(&folder.join("service-key"), || {
            Ok(Seed::generate()?.to_base64().expose_secret().to_owned())
        })?;
        // `none` reads what an older version has stored.
        let encryption_keys = || Ok(format!("{}\nnone", Seed::generate()?.to_base64().expose_secret()));
        read_or_create(&folder.join("encryption-keys"), encryption_keys)?;
        let account = |name: &str, email| {
            let password = read_or_create(&folder.join(format!("{name}-password")), || Ok(password()))?;
            let login = folder.join(format!("{name}.json"));
            let request = serde_json::json!({ "email": email, "password": &password });
            write(&login, &format!("{request}\n"))?;
            anyhow::Ok(Account { email, password, login })
        };
        let (admin, customer) = (account("admin", ADMIN)?, account("customer", CUSTOMER)?);
        Ok(Self { folder, admin, customer })
    }

    /// The key with which services authenticate to each other.
    fn service_key(&self) -> PathBuf {
        self.folder.join("service-key")
    }

    /// The keys with which user-service encrypts its signing keys: in a file
    /// beside the data, so that a copy of the data alone signs nothing.
    fn encryption_keys(&self) -> PathBuf {
        self.folder.join("encryption-keys")
    }

    fn admin_password(&self) -> PathBuf {
        self.folder.join("admin-password")
    }
}

/// The password is left out.
impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("email", &self.email).finish_non_exhaustive()
    }
}

/// A random password of 244 bits.
fn password() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

/// Reads the secret in that file, or creates it.
fn read_or_create(path: &Path, make: impl FnOnce() -> Result<String>) -> Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let text = make()?;
            write(path, &format!("{text}\n"))?;
            Ok(text)
        }
        Err(error) => Err(error).with_context(|| format!("could not read {}", path.display())),
    }
}

/// Replaces a file as a whole; other users can read it at no time.
fn write(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    let written = || {
        let mut options = File::options();
        let mut file = options.create(true).write(true).truncate(true).mode(PRIVATE_FILE_MODE).open(&new)?;
        file.set_permissions(Permissions::from_mode(PRIVATE_FILE_MODE))?;
        file.write_all(text.as_bytes())?;
        fs::rename(&new, path)
    };
    written().with_context(|| format!("could not write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::*;
    use user_service::encryption::EncryptionKeys;

    const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn value(env: &[(&'static str, OsString)], name: &str) -> Option<String> {
        let found = env.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| value.to_string_lossy().into_owned())
    }

    #[test]
    fn secrets_are_made_once_and_only_their_owner_reads_them() {
        let dir = tempfile::tempdir().unwrap();
        let files = StatePaths::of(Some(dir.path())).unwrap();
        let keys = || {
            let env = Access::new(true, LOOPBACK, &files).unwrap().env(Service::User);
            ["AUTH_SERVICE_KEY_FILE", "ADMIN_PASSWORD_FILE", "AUTH_ENCRYPTION_KEYS_FILE"]
                .map(|name| fs::read_to_string(value(&env, name).unwrap()).unwrap())
        };
        let first = keys();
        assert_eq!(keys(), first, "a second start knows the same");
        Seed::parse(&SecretString::from(first[0].as_str())).unwrap();
        assert_eq!(first[1].trim().len(), 64);
        assert!(EncryptionKeys::parse(&SecretString::from(first[2].as_str())).unwrap().encrypts());
        for entry in fs::read_dir(files.secrets()).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, PRIVATE_FILE_MODE, "{:?}", entry.path());
        }
        assert_eq!(fs::metadata(files.secrets()).unwrap().permissions().mode() & 0o777, PRIVATE_FOLDER_MODE);
    }

    #[test]
    fn only_user_service_gets_the_admin_password_and_the_encryption_keys() {
        let dir = tempfile::tempdir().unwrap();
        let files = StatePaths::of(Some(dir.path())).unwrap();
        let access = Access::new(true, LOOPBACK, &files).unwrap();
        for service in Service::ALL {
            let env = access.env(service);
            assert_eq!(value(&env, "AUTH").as_deref(), Some("on"));
            for name in ["ADMIN_PASSWORD_FILE", "AUTH_ENCRYPTION_KEYS_FILE"] {
                assert_eq!(value(&env, name).is_some(), service == Service::User);
            }
        }
        let open = Access::new(false, LOOPBACK, &files).unwrap();
        assert_eq!(value(&open.env(Service::Cart), "AUTH").as_deref(), Some("off"));
    }

    #[test]
    fn a_host_that_other_machines_reach_needs_authentication() {
        let dir = tempfile::tempdir().unwrap();
        let files = StatePaths::of(Some(dir.path())).unwrap();
        let host = "10.0.0.1".parse().unwrap();
        assert!(Access::new(false, host, &files).unwrap_err().to_string().contains("--auth"));
        Access::new(true, host, &files).unwrap();
    }

    #[test]
    fn a_password_is_in_no_log() {
        let dir = tempfile::tempdir().unwrap();
        let files = StatePaths::of(Some(dir.path())).unwrap();
        let Access::Authenticated(secrets) = Access::new(true, LOOPBACK, &files).unwrap() else { panic!() };
        assert!(!format!("{secrets:?}").contains(&secrets.admin.password));
    }
}
