//! Settings out of environment variables.

use std::{ffi::OsString, fmt, path::PathBuf, str::FromStr, time::Duration};

use super::parse_duration;
use crate::{Error, instance::ParseError};

/// The source of variables: the process's environment, or a test's.
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

    /// The variable as a `T`, whose parse error has the value and what is
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

    /// The variable, parsed by `parse`.
    pub(crate) fn parse_with<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, ParseError>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = (self.lookup)(name).filter(|value| !value.is_empty()) else { return Ok(None) };
        let text = value
            .to_str()
            .ok_or_else(|| Error::Config(format!("{name}: `{}` is not UTF-8", value.to_string_lossy())))?;
        refuse_control_characters(name, text)?;
        parse(text).map(Some).map_err(|why| Error::Config(format!("{name}: {why}")))
    }
}

/// Rejects characters that no setting contains on purpose, such as the carriage
/// return of a Windows file, which would be invisible in a path or an address.
/// JSON may have several lines.
pub(crate) fn refuse_control_characters(name: &str, value: &str) -> Result<(), Error> {
    let is_json = value.trim_start().starts_with(['{', '[']);
    let is_wrong = |c: &char| c.is_control() && !(is_json && c.is_ascii_whitespace());
    match value.chars().find(is_wrong) {
        Some(c) => Err(Error::Config(format!(
            "{name} holds the control character `{}`: remove it; a file with line ends of Windows puts a `\\r` at \
             the end",
            c.escape_default()
        ))),
        None => Ok(()),
    }
}

impl fmt::Debug for Environment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_character_is_refused_by_name_but_json_may_have_several_lines() {
        for (value, refused) in [
            ("on\r", true),
            ("\non", true),
            ("o\u{7f}n", true),
            ("on", false),
            ("{\r\n\t\"a\": 1\n}", false),
            ("{\u{0}}", true),
        ] {
            let lookup = |_: &str| Some(value.into());
            let read = Environment::new(&lookup).parse_with("CONSORT_X", |text| Ok(text.to_owned()));
            match read {
                Ok(_) => assert!(!refused, "{value:?}"),
                Err(why) => assert!(refused && why.to_string().contains("CONSORT_X holds"), "{why}"),
            }
        }
    }
}
