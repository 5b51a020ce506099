//! Why a database could not be opened, in words of one line: cause and mend.

use std::{fmt, io, path::Path};

use sqlx::{migrate::MigrateError, postgres::PgConnectOptions};

use super::{SchemaVersion, error::sqlite_code, migrate::NotMigrated, url};

/// Why a database could not be opened, with how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(String);

impl OpenError {
    /// A file that cannot be made or written.
    pub(super) fn file(path: &Path, why: &io::Error) -> Self {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).display();
        let mend = match why.kind() {
            io::ErrorKind::NotFound => format!("make the folder {folder} or change DATABASE_URL"),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                format!("let this user write to {folder} or change DATABASE_URL")
            }
            io::ErrorKind::StorageFull => format!("free space in {folder} or change DATABASE_URL"),
            _ => "change DATABASE_URL to a file that can be written".to_owned(),
        };
        Self(format!("could not write the database sqlite:{}: {why}; {mend}", path.display()))
    }

    /// A file that SQLite cannot use.
    pub(super) fn sqlite(path: &Path, why: &sqlx::Error) -> Self {
        let code = why.as_database_error().and_then(|e| e.code()).and_then(|code| sqlite_code(&code));
        let mend = match code {
            Some(26) => "it is not a database; change DATABASE_URL or move the file away",
            Some(11) => "it is damaged; restore it from a copy",
            Some(5 | 6) => "another process keeps it locked; end that process or wait for it",
            Some(8 | 14) => "let this user write to the file and its folder",
            Some(10 | 13) => "see to the disk: it is full or failing",
            _ => "change DATABASE_URL to a file that can be used",
        };
        Self(format!("could not open the database sqlite:{}: {}; {mend}", path.display(), one_line(why)))
    }

    /// A server that cannot be reached or does not let us in.
    pub(super) fn postgres(options: &PgConnectOptions, why: &sqlx::Error) -> Self {
        let code = why.as_database_error().and_then(|e| e.code()).unwrap_or_default().into_owned();
        let mend = match (code.as_str(), why) {
            ("28P01" | "28000", _) => "check user and password in DATABASE_URL",
            ("3D000", _) => "create that database or change its name in DATABASE_URL",
            ("53300", _) => "the server has no connection left; raise max_connections or run fewer replicas",
            ("57P03", _) => "the server is starting up; try again",
            ("25006", _) => "it is a standby, or read-only; let DATABASE_URL lead to the primary",
            (_, sqlx::Error::Io(_)) => "start the server or change host and port in DATABASE_URL",
            (_, sqlx::Error::Tls(_)) => "check sslmode in DATABASE_URL and the server's certificate",
            _ => "check DATABASE_URL",
        };
        Self(format!("could not connect to {}: {}; {mend}", url::shown(options), one_line(why)))
    }

    /// A server that does not answer.
    pub(super) fn silent(options: &PgConnectOptions, waited: std::time::Duration) -> Self {
        let shown = url::shown(options);
        Self(format!("{shown} did not answer within {waited:?}; check host and port in DATABASE_URL"))
    }

    /// A pooler that gives each transaction another session.
    pub(super) fn shared_sessions(options: &PgConnectOptions) -> Self {
        Self(format!(
            "could not use {}: its connections are no sessions of their own, as behind a pooler in transaction or \
             statement mode; prepared statements, LISTEN and SET would fail now and then; set pool_mode = session \
             for this database, or let DATABASE_URL lead to the server itself",
            url::shown(options)
        ))
    }

    /// A server or a pooler that has room for one connection.
    pub(super) fn one_connection(options: &PgConnectOptions, waited: std::time::Duration) -> Self {
        Self(format!(
            "{} did not serve a second connection within {waited:?}, and each replica takes up to 12; raise the server's \
             max_connections, or the pooler's default_pool_size",
            url::shown(options)
        ))
    }

    /// A schema that is not one for this program.
    pub(super) fn migration(shown: &str, why: &NotMigrated) -> Self {
        let why = match why {
            NotMigrated::TooNew(SchemaVersion { present, wanted, oldest }) => {
                return Self(format!(
                    "could not use {shown}: its schema is at version {present}, for programs that know version \
                     {oldest}, and this one knows up to {wanted}; a newer version has been here: run that version \
                     or newer, or restore a copy from before it"
                ));
            }
            NotMigrated::Step(why) => why,
        };
        let mend = match why {
            MigrateError::VersionMismatch(_) | MigrateError::Dirty(_) => {
                "its schema was changed by hand or by another program; restore it or use another database"
            }
            _ => "see to the cause and start again",
        };
        Self(format!("could not bring {shown} up to date: {}; {mend}", one_line(why)))
    }
}

fn one_line(why: &dyn fmt::Display) -> String {
    let text = why.to_string();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
