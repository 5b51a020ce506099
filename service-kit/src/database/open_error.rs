//! The error when a database cannot be opened: cause and fix in one line.

use std::{fmt, io, path::Path};

use sqlx::{migrate::MigrateError, postgres::PgConnectOptions};

use super::{SchemaVersion, error::sqlite_code, migrate::MigrationError, url};

/// The reason why a database could not be opened, with the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(String);

impl OpenError {
    /// A file that cannot be created or written.
    pub(super) fn file(path: &Path, why: &io::Error) -> Self {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).display();
        let fix = match why.kind() {
            io::ErrorKind::NotFound => format!("create the folder {folder} or change DATABASE_URL"),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                format!("let this user write to {folder} or change DATABASE_URL")
            }
            io::ErrorKind::StorageFull => format!("free space in {folder} or change DATABASE_URL"),
            _ => "change DATABASE_URL to a file that can be written".to_owned(),
        };
        Self(format!("could not write the database sqlite:{}: {why}; {fix}", path.display()))
    }

    /// A file that SQLite cannot use.
    pub(super) fn sqlite(path: &Path, why: &sqlx::Error) -> Self {
        let code = why.as_database_error().and_then(|e| e.code()).and_then(|code| sqlite_code(&code));
        let fix = match code {
            Some(26) => "the file is not a database; change DATABASE_URL or move the file away",
            Some(11) => "the file is corrupt; restore it from a backup",
            Some(5 | 6) => "another process holds its lock; end that process or wait for it",
            Some(8 | 14) => "let this user write to the file and its folder",
            Some(10 | 13) => "check the disk: it is full or failing",
            _ => "change DATABASE_URL to a file that can be used",
        };
        Self(format!("could not open the database sqlite:{}: {}; {fix}", path.display(), one_line(why)))
    }

    /// A server that cannot be reached or refuses the connection.
    pub(super) fn postgres(options: &PgConnectOptions, why: &sqlx::Error) -> Self {
        let code = why.as_database_error().and_then(|e| e.code()).unwrap_or_default().into_owned();
        let fix = match (code.as_str(), why) {
            ("28P01" | "28000", _) => "check user and password in DATABASE_URL",
            ("3D000", _) => "create that database or change its name in DATABASE_URL",
            ("53300", _) => "the server has no connection left; raise max_connections or run fewer replicas",
            ("57P03", _) => "the server is starting up; try again",
            ("25006", _) => "the server is a standby or read-only; point DATABASE_URL to the primary",
            (_, sqlx::Error::Io(_)) => "start the server or change host and port in DATABASE_URL",
            (_, sqlx::Error::Tls(_)) => "check sslmode in DATABASE_URL and the server's certificate",
            _ => "check DATABASE_URL",
        };
        Self(format!("could not connect to {}: {}; {fix}", url::shown(options), one_line(why)))
    }

    /// A server that does not respond.
    pub(super) fn timed_out(options: &PgConnectOptions, timeout: std::time::Duration) -> Self {
        let shown = url::shown(options);
        Self(format!("{shown} did not respond within {timeout:?}; check host and port in DATABASE_URL"))
    }

    /// A pooler that runs each transaction on another session.
    pub(super) fn shared_sessions(options: &PgConnectOptions) -> Self {
        Self(format!(
            "could not use {}: its connections share server sessions, as behind a pooler in transaction or \
             statement mode, so that prepared statements, LISTEN and SET fail; set pool_mode = session for this \
             database, or point DATABASE_URL to the server itself",
            url::shown(options)
        ))
    }

    /// A server or a pooler that has room for one connection only.
    pub(super) fn one_connection(options: &PgConnectOptions, timeout: std::time::Duration) -> Self {
        Self(format!(
            "{} did not accept a second connection within {timeout:?}, and each replica needs up to 12; raise the \
             server's max_connections, or the pooler's default_pool_size",
            url::shown(options)
        ))
    }

    /// A schema that this program cannot use.
    pub(super) fn migration(shown: &str, why: &MigrationError) -> Self {
        let why = match why {
            MigrationError::TooNew(SchemaVersion { current, target, oldest_compatible }) => {
                return Self(format!(
                    "could not use {shown}: its schema is at version {current}, which needs a program that knows \
                     version {oldest_compatible}, and this one knows versions up to {target}; run the newer program, \
                     or restore a backup from before it ran"
                ));
            }
            MigrationError::Step(why) => why,
        };
        let fix = match why {
            MigrateError::VersionMismatch(_) | MigrateError::Dirty(_) => {
                "its schema was changed by hand or by another program; restore it or use another database"
            }
            _ => "fix the cause and start again",
        };
        Self(format!("could not migrate the schema of {shown}: {}; {fix}", one_line(why)))
    }
}

fn one_line(why: &dyn fmt::Display) -> String {
    let text = why.to_string();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
