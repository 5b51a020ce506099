//! The ACL token, and its file.

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwapOption;
use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

use super::Error;

/// The current token, as a header value marked sensitive, so that it is never
/// printed.
#[derive(Debug)]
pub(super) struct Token {
    now: ArcSwapOption<HeaderValue>,
    file: Option<PathBuf>,
}

impl Token {
    /// The token of `file` if there is one, else `given`.
    pub(super) fn new(given: Option<SecretString>, file: Option<PathBuf>) -> Result<Self, Error> {
        let text = match &file {
            Some(path) => {
                let read = std::fs::read_to_string(path).map_err(|e| {
                    Error::Config(format!(
                        "cannot read the token file {} ({e}): make it readable, or unset CONSUL_HTTP_TOKEN_FILE",
                        path.display()
                    ))
                })?;
                Some(SecretString::from(read))
            }
            None => given,
        };
        let now = text.map(|text| header(&text)).transpose()?.flatten();
        Ok(Self { now: ArcSwapOption::new(now.map(Arc::new)), file })
    }

    /// The current token.
    pub(super) fn now(&self) -> Option<HeaderValue> {
        self.now.load().as_deref().cloned()
    }

    /// Reads the file again, after a denied request. Returns whether the token
    /// is now another one than `refused`.
    pub(super) async fn renewed(&self, refused: Option<&HeaderValue>) -> bool {
        if let Some(file) = &self.file
            && let Ok(text) = tokio::fs::read_to_string(file).await
            && let Ok(Some(fresh)) = header(&SecretString::from(text))
        {
            self.now.store(Some(Arc::new(fresh)));
        }
        self.now().as_ref() != refused
    }
}

/// The value of the header; `None` for blank text.
fn header(text: &SecretString) -> Result<Option<HeaderValue>, Error> {
    let text = text.expose_secret().trim();
    if text.is_empty() {
        return Ok(None);
    }
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        Error::Config(
            "the Consul token holds characters that no header can carry: set CONSUL_HTTP_TOKEN (or the \
             file of CONSUL_HTTP_TOKEN_FILE) to the token's SecretID alone"
                .to_owned(),
        )
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_file_is_read_again_after_a_refusal() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "one\n").unwrap();
        let token = Token::new(Some("given".to_owned().into()), Some(file.clone())).unwrap();
        let first = token.now();
        assert_eq!(first.as_ref().unwrap(), "one");
        assert!(!token.renewed(first.as_ref()).await, "the same token would be refused again");
        std::fs::write(&file, "two\n").unwrap();
        assert!(token.renewed(first.as_ref()).await);
        assert_eq!(token.now().unwrap(), "two");
        std::fs::remove_file(&file).unwrap();
        assert!(token.renewed(first.as_ref()).await, "a vanished file leaves the last token");
    }
}
