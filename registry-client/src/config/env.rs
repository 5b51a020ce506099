//! Settings out of environment variables.

use std::{ffi::OsString, fmt, path::PathBuf, str::FromStr, time::Duration};

use super::parse_duration;
use crate::{Error, instance::ParseError};

/// Where variables are looked up: the process's environment, or a test's.
pub(crate) struct Environment<'a> {
    lookup: &'a dyn Fn(&str) -> Option<OsString>,
}

impl<'a> Environment<'a> {
    #[cfg(test)]
    pub(crate) fn new(lookup: &'a dyn Fn(&str) -> Option<OsString>) -> Self {
        Self { lookup }
    }

    #[allow(clippy::disallowed_methods, reason = "the one place that `from_env` constructors read through")]
    pub(crate) fn of_process() -> Self {
        Self { lookup: &|name| std::env::var_os(name) }
    }

    /// The variable as a `T`, whose error says what the value is and what was
    /// expected; `None` when it is unset or empty.
    pub(crate) fn parse<T: FromStr<Err = ParseError>>(&self, name: &str) -> Result<Option<T>, Error> {
        self.parse_with(name, str::parse)
    }

    /// The variable as a duration, which may be 0.
    pub(crate) fn duration(&self, name: &str) -> Result<Option<Duration>, Error> {
        self.parse_with(name, parse_duration)
    }

    /// The variable as a duration that is not 0.
    pub(crate) fn positive_duration(&self, name: &str) -> Result<Option<Duration>, Error> {
        self.parse_with(name, |text| match parse_duration(text)? {
            Duration::ZERO => {
                Err(ParseError(format!("`{text}` is no time at all; a duration above 0 is expected")))
            }
            some => Ok(some),
        })
    }

    /// The variable as a path; `None` when it is unset or empty.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        (self.lookup)(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// The variable as `on` or `off`.
    pub(crate) fn switch(&self, name: &str) -> Result<Option<bool>, Error> {
        self.parse_with(name, |text| match text {
            "on" => Ok(true),
            "off" => Ok(false),
            other => Err(ParseError(format!("`{other}` is neither `on` nor `off`"))),
        })
    }

    /// The variable, as `parse` reads it.
    pub(crate) fn parse_with<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, ParseError>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = (self.lookup)(name).filter(|value| !value.is_empty()) else { return Ok(None) };
        let text = value
            .to_str()
            .ok_or_else(|| Error::Config(format!("{name}: `{}` is not UTF-8", value.to_string_lossy())))?;
        parse(text).map(Some).map_err(|why| Error::Config(format!("{name}: {why}")))
    }
}

impl fmt::Debug for Environment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").finish_non_exhaustive()
    }
}
