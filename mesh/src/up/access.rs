//! Who may call the shop: nobody is asked, or everybody shows a token.

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

use crate::{services::Service, state::Files};

/// The account that may do everything.
const ADMIN: &str = "admin@shop.example";
/// The account that the printed lines buy with.
const CUSTOMER: &str = "ada@shop.example";
/// What only this user may read, and only this user may enter.
const OWN_FILE: u32 = 0o600;
const OWN_FOLDER: u32 = 0o700;

/// Whether callers are asked who they are.
#[derive(Clone, Debug)]
pub(crate) enum Access {
    /// They are not.
    Open,
    /// They are, and this is what the shop begins with.
    Guarded(Secrets),
}

/// Keys and passwords, made once, in files that only this user reads.
#[derive(Clone, Debug)]
pub(crate) struct Secrets {
    folder: PathBuf,
    pub(crate) admin: Account,
    pub(crate) customer: Account,
}

/// Somebody who can log in.
#[derive(Clone)]
pub(crate) struct Account {
    pub(crate) email: &'static str,
    pub(crate) password: String,
    /// Holds the request that logs in, as JSON.
    pub(crate) login: PathBuf,
}

impl Access {
    /// With `guarded`, makes what is not there yet.
    ///
    /// # Errors
    /// When it cannot be written or read, or nobody would be asked on an
    /// address that others reach.
    pub(crate) fn new(guarded: bool, host: IpAddr, files: &Files) -> Result<Self> {
        if guarded {
            return Secrets::of(files.secrets()).map(Self::Guarded);
        }
        if !host.is_loopback() {
            bail!(
                "{host} is reached by others, and callers are not asked who they are: turn that on with --auth, \
                 or stay on this machine with --host 127.0.0.1"
            );
        }
        Ok(Self::Open)
    }

    /// What a process of `service` is told of it.
    pub(crate) fn env(&self, service: Service) -> Vec<(&'static str, OsString)> {
        let Self::Guarded(secrets) = self else { return vec![("AUTH", "off".into())] };
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
            .and_then(|()| fs::set_permissions(&folder, Permissions::from_mode(OWN_FOLDER)));
        made.with_context(|| format!("could not make {}", folder.display()))?;
        kept(&folder.join("service-key"), || Ok(Seed::generate()?.to_base64().expose_secret().to_owned()))?;
        // `none` reads what an older version has stored.
        let encryption_keys = || Ok(format!("{}\nnone", Seed::generate()?.to_base64().expose_secret()));
        kept(&folder.join("encryption-keys"), encryption_keys)?;
        let account = |name: &str, email| {
            let password = kept(&folder.join(format!("{name}-password")), || Ok(password()))?;
            let login = folder.join(format!("{name}.json"));
            let request = serde_json::json!({ "email": email, "password": &password });
            write(&login, &format!("{request}\n"))?;
            anyhow::Ok(Account { email, password, login })
        };
        let (admin, customer) = (account("admin", ADMIN)?, account("customer", CUSTOMER)?);
        Ok(Self { folder, admin, customer })
    }

    /// With what services prove to each other who they are.
    fn service_key(&self) -> PathBuf {
        self.folder.join("service-key")
    }

    /// Under which user-service encrypts the keys that sign tokens: beside the
    /// data, so that a copy of the data alone signs nothing.
    fn encryption_keys(&self) -> PathBuf {
        self.folder.join("encryption-keys")
    }

    fn admin_password(&self) -> PathBuf {
        self.folder.join("admin-password")
    }
}

/// Its password is nobody's business.
impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("email", &self.email).finish_non_exhaustive()
    }
}

/// One that nobody can guess: 244 bits.
fn password() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

/// The secret in that file, which is made when it is not there.
fn kept(path: &Path, make: impl FnOnce() -> Result<String>) -> Result<String> {
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

/// Replaces a file as a whole; nobody else can read it at any time.
fn write(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    let written = || {
        let mut options = File::options();
        let mut file = options.create(true).write(true).truncate(true).mode(OWN_FILE).open(&new)?;
        file.set_permissions(Permissions::from_mode(OWN_FILE))?;
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
        let files = Files::of(Some(dir.path())).unwrap();
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
            assert_eq!(mode, OWN_FILE, "{:?}", entry.path());
        }
        assert_eq!(fs::metadata(files.secrets()).unwrap().permissions().mode() & 0o777, OWN_FOLDER);
    }

    #[test]
    fn only_user_service_is_told_of_the_admin_and_of_what_encrypts_its_keys() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::of(Some(dir.path())).unwrap();
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
    fn where_others_reach_it_somebody_must_be_asked() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::of(Some(dir.path())).unwrap();
        let host = "10.0.0.1".parse().unwrap();
        assert!(Access::new(false, host, &files).unwrap_err().to_string().contains("--auth"));
        Access::new(true, host, &files).unwrap();
    }

    #[test]
    fn a_password_is_in_no_log() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::of(Some(dir.path())).unwrap();
        let Access::Guarded(secrets) = Access::new(true, LOOPBACK, &files).unwrap() else { panic!() };
        assert!(!format!("{secrets:?}").contains(&secrets.admin.password));
    }
}
