//! `DATABASE_URL`.

use std::{fmt, path::PathBuf, str::FromStr};

use sqlx::postgres::PgConnectOptions;

/// Which database: `sqlite:PATH` or `postgres://USER:PASSWORD@HOST/NAME`.
/// Shows no password, neither by `Display` nor by `Debug`.
#[derive(Clone)]
pub enum DatabaseUrl {
    /// A file, made when it is missing.
    Sqlite(PathBuf),
    /// A PostgreSQL server.
    Postgres(Box<PgConnectOptions>),
}

/// A text that names no database that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("DATABASE_URL {0}")]
pub struct InvalidUrl(String);

impl FromStr for DatabaseUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        match text.split_once(':') {
            Some(("sqlite", rest)) => sqlite(rest),
            Some(("postgres" | "postgresql", _)) => postgres(text),
            _ => Err(InvalidUrl(format!(
                "`{}` is of no database that is known here; write sqlite:PATH or \
                 postgres://USER:PASSWORD@HOST/NAME",
                masked(text)
            ))),
        }
    }
}

fn sqlite(rest: &str) -> Result<DatabaseUrl, InvalidUrl> {
    let path = rest.strip_prefix("//").unwrap_or(rest);
    // What others write to say what is the case here anyway.
    let path = path.strip_suffix("?mode=rwc").unwrap_or(path);
    if path.is_empty() || path.contains('?') || path == ":memory:" {
        return Err(InvalidUrl(format!(
            "`sqlite:{rest}` names no file; write sqlite:PATH without parameters (a database in memory \
             cannot be shared by replicas)"
        )));
    }
    Ok(DatabaseUrl::Sqlite(path.into()))
}

fn postgres(text: &str) -> Result<DatabaseUrl, InvalidUrl> {
    let read: Result<PgConnectOptions, _> = text.parse();
    match read {
        Ok(options) => Ok(DatabaseUrl::Postgres(Box::new(options))),
        Err(why) => Err(InvalidUrl(format!("`{}` cannot be read: {why}", masked(text)))),
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(options) => f.write_str(&shown(options)),
        }
    }
}

/// A server and a database in words that hold no password.
pub(super) fn shown(options: &PgConnectOptions) -> String {
    let place = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    let name = options.get_database().unwrap_or_else(|| options.get_username());
    format!("postgres://{}@{place}/{name}", options.get_username())
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A URL with `***` where its password or token would stand: between user and
/// host, and in parameters named so.
#[must_use]
pub fn masked(url: &str) -> String {
    let (base, query) = match url.split_once('?') {
        Some((base, query)) => (base, Some(query)),
        None => (url, None),
    };
    let mut text = mask_userinfo(base);
    if let Some(query) = query {
        text.push('?');
        text.push_str(&query.split('&').map(mask_parameter).collect::<Vec<_>>().join("&"));
    }
    text
}

fn mask_userinfo(base: &str) -> String {
    let Some((scheme, rest)) = base.split_once("//") else { return base.to_owned() };
    let Some((userinfo, place)) = rest.rsplit_once('@') else { return base.to_owned() };
    match userinfo.split_once(':') {
        Some((user, _)) => format!("{scheme}//{user}:***@{place}"),
        None => base.to_owned(),
    }
}

fn mask_parameter(pair: &str) -> String {
    match pair.split_once('=') {
        Some((key, _)) if ["password", "token", "secret"].iter().any(|s| key.contains(s)) => {
            format!("{key}=***")
        }
        _ => pair.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_and_a_server_can_be_named() {
        for (text, shown) in [
            ("sqlite:a/b.db", "sqlite:a/b.db"),
            ("sqlite://a/b.db", "sqlite:a/b.db"),
            ("sqlite:///a/b.db?mode=rwc", "sqlite:/a/b.db"),
            ("postgres://shop:hunter2@db:5433/cart", "postgres://shop@db:5433/cart"),
            ("postgresql://shop:hunter2@db/cart?sslmode=require", "postgres://shop@db:5432/cart"),
        ] {
            let url: DatabaseUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), shown);
        }
    }

    #[test]
    fn what_names_no_database_is_refused_without_its_password() {
        for text in [
            "",
            "cart.db",
            "mysql://shop:hunter2@db/cart",
            "sqlite:",
            "sqlite::memory:",
            "sqlite:a.db?mode=memory",
            "postgres://shop:hunter2@db:port/cart",
        ] {
            let why = text.parse::<DatabaseUrl>().unwrap_err().to_string();
            assert!(why.starts_with("DATABASE_URL `") && !why.contains("hunter2"), "{why}");
            assert!(!why.contains('\n'));
        }
    }

    #[test]
    fn a_mask_hides_passwords_and_nothing_else() {
        for (url, hidden) in [
            ("postgres://u:p@h/d?password=p&a=b", "postgres://u:***@h/d?password=***&a=b"),
            ("postgres://u:p:q@r@h/d", "postgres://u:***@h/d"),
            ("postgres://u@h/d", "postgres://u@h/d"),
            ("sqlite:a.db", "sqlite:a.db"),
            ("127.0.0.1:8500", "127.0.0.1:8500"),
        ] {
            assert_eq!(masked(url), hidden);
        }
    }
}
