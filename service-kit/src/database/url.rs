//! `DATABASE_URL`.

use std::{fmt, path::PathBuf, str::FromStr};

use sqlx::postgres::PgConnectOptions;

/// The address of a database: `sqlite:PATH` or
/// `postgres://USER:PASSWORD@HOST/NAME`. Neither `Display` nor `Debug` shows the
/// password.
#[derive(Clone)]
pub enum DatabaseUrl {
    /// A file, created when it is missing.
    Sqlite(PathBuf),
    /// A PostgreSQL server.
    Postgres(Box<PgConnectOptions>),
}

/// The reason why a text is no database URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("DATABASE_URL {0}")]
pub struct InvalidUrl(String);

impl FromStr for DatabaseUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        match text.split_once(':') {
            Some(("sqlite", rest)) => sqlite(rest),
            Some(("postgres" | "postgresql", _)) => postgres(text),
            Some((scheme, rest)) if rest.starts_with("//") && is_scheme(scheme) => Err(InvalidUrl(format!(
                "names an unsupported database `{scheme}:`; write sqlite:PATH or \
                 postgres://USER:PASSWORD@HOST/NAME"
            ))),
            // An invalid URL may hold a password anywhere.
            _ => Err(InvalidUrl(
                "names no supported database, and is not shown since it may hold a password; write sqlite:PATH \
                 or postgres://USER:PASSWORD@HOST/NAME"
                    .to_owned(),
            )),
        }
    }
}

fn sqlite(rest: &str) -> Result<DatabaseUrl, InvalidUrl> {
    let path = rest.strip_prefix("//").unwrap_or(rest);
    // The default here; sqlx's own URLs have to say it.
    let path = path.strip_suffix("?mode=rwc").unwrap_or(path);
    if path.is_empty() || path.contains('?') || path == ":memory:" {
        let shown = path.split('?').next().unwrap_or_default();
        return Err(InvalidUrl(format!(
            "`sqlite:{shown}` names no file; write sqlite:PATH without parameters (replicas cannot share a \
             database in memory)"
        )));
    }
    Ok(DatabaseUrl::Sqlite(path.into()))
}

fn postgres(text: &str) -> Result<DatabaseUrl, InvalidUrl> {
    let Some(shown) = mask_parts(text) else {
        return Err(InvalidUrl(
            "is not a valid URL, and is not shown since it may hold a password; write \
             postgres://USER:PASSWORD@HOST/NAME, in USER and PASSWORD %3F for `?`, %2F for `/`, %23 for `#`, %40 \
             for `@` and %25 for `%`"
                .to_owned(),
        ));
    };
    let read: Result<PgConnectOptions, _> = text.parse();
    match read {
        Ok(options) => Ok(DatabaseUrl::Postgres(Box::new(options))),
        Err(why) => Err(InvalidUrl(format!("`{shown}` is not a valid URL: {why}"))),
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

/// The server and the database without the password.
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

/// Masks the password or token of a URL with `***`: between user and host, and
/// in parameters named so. A text that is not a URL becomes `***` as a whole.
#[must_use]
pub fn masked(url: &str) -> String {
    mask_parts(url).unwrap_or_else(|| "***".to_owned())
}

/// Masks a URL; `None` when the end of the password is ambiguous.
fn mask_parts(url: &str) -> Option<String> {
    if let Some(path) = url.strip_prefix("sqlite:") {
        return (!path.contains('?')).then(|| url.to_owned());
    }
    let (scheme, rest) = url.split_once("://").filter(|(scheme, _)| is_scheme(scheme))?;
    let (authority, behind) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // A `?`, `/` or `#` in a password ends the authority too early.
    if behind.contains('@') {
        return None;
    }
    let (path, query) = match behind.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (behind, None),
    };
    let authority = match authority.rsplit_once('@') {
        None => authority.to_owned(),
        Some((userinfo, place)) => match userinfo.split_once(':') {
            Some((user, _)) => format!("{user}:***@{place}"),
            // A user of a database; with NATS, a token.
            None if scheme.starts_with("postgres") => format!("{userinfo}@{place}"),
            None => format!("***@{place}"),
        },
    };
    let query = query.map(|query| query.split('&').map(mask_parameter).collect::<Vec<_>>().join("&"));
    let query = query.map_or_else(String::new, |query| format!("?{query}"));
    Some(format!("{scheme}://{authority}{path}{query}"))
}

fn is_scheme(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+')
}

fn mask_parameter(pair: &str) -> String {
    const SECRET: [&str; 5] = ["pass", "token", "secret", "key", "auth"];
    match pair.split_once('=') {
        Some((name, _)) if SECRET.iter().any(|word| name.to_ascii_lowercase().contains(word)) => {
            format!("{name}=***")
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
            "postgres://shop:hunter2?x@db/cart",
            "postgres://shop:12?hunter2@db/cart",
            "postgres://shop:hunter2/x@db/cart",
            "postgres://shop:hunter2#x@db/cart",
            "postgres://shop:x@hunter2@db:port/cart",
            "host=db user=shop password=hunter2 dbname=cart",
            "host=db:5432 password=hunter2",
            "shop:hunter2@db/cart",
            "postgres:shop:hunter2@db/cart",
            "sqlite:a.db?key=hunter2",
        ] {
            let why = text.parse::<DatabaseUrl>().unwrap_err().to_string();
            assert!(why.starts_with("DATABASE_URL ") && !why.contains("hunter2"), "{why}");
            assert!(!why.contains('\n'));
        }
    }

    #[test]
    fn a_mask_hides_passwords_and_nothing_else() {
        for (url, hidden) in [
            ("postgres://u:p@h/d?password=p&a=b", "postgres://u:***@h/d?password=***&a=b"),
            ("postgres://u:p:q@h/d", "postgres://u:***@h/d"),
            ("postgres://u:p:q@r@h/d", "postgres://u:***@h/d"),
            ("postgres://u:p?q@h/d", "***"),
            ("host=h password=p", "***"),
            ("nats://token@h:4222", "nats://***@h:4222"),
            ("nats://h:4222", "nats://h:4222"),
            ("postgres://u@h/d", "postgres://u@h/d"),
            ("sqlite:a.db", "sqlite:a.db"),
        ] {
            assert_eq!(masked(url), hidden);
        }
    }
}
