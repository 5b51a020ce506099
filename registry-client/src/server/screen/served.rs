//! What a server serves, and what it says of what it does not.

use std::collections::HashMap;

use super::super::described::{self, Kind, Method};
use crate::Error;

/// How many services a response lists, and how many characters of what a caller
/// asked for it repeats: enough to see the mistake, and no more than a header
/// should hold.
const MAX_LISTED: usize = 10;
pub(in crate::server) const MAX_ECHOED: usize = 200;

/// The services of a server, and the kinds of those methods that are described.
#[derive(Debug)]
pub(in crate::server) struct Served {
    services: Vec<&'static str>,
    kinds: HashMap<Box<str>, Kind>,
}

impl Served {
    /// What `services` are, the server's own first.
    ///
    /// # Errors
    /// When a descriptor set is not one.
    pub(in crate::server) fn new(
        services: Vec<&'static str>,
        descriptors: &[&'static [u8]],
    ) -> Result<Self, Error> {
        let methods = described::methods(&services, descriptors)?;
        let kinds = methods.into_iter().map(|Method { path, kind }| (path, kind)).collect();
        Ok(Self { services, kinds })
    }

    /// The kind of the method that `path` calls; `None` when nothing describes
    /// it.
    pub(in crate::server) fn kind(&self, path: &str) -> Option<Kind> {
        self.kinds.get(path).copied()
    }

    /// Why `path` cannot be called, in words.
    pub(super) fn lacks(&self, path: &str) -> String {
        let called: String = path.chars().take(MAX_ECHOED).collect();
        let parts = called.strip_prefix('/').and_then(|name| name.rsplit_once('/'));
        let Some((service, method)) =
            parts.filter(|(service, method)| !service.is_empty() && !method.is_empty())
        else {
            return format!("`{called}` is not the path of a method, which is /package.Service/Method");
        };
        if self.services.contains(&service) {
            return format!("the service `{service}` does not implement a method `{method}`");
        }
        let listed = &self.services[..self.services.len().min(MAX_LISTED)];
        let more = match self.services.len() - listed.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("this server has no service `{service}`; it serves {}{more}", listed.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_served_is_named() {
        let served = Served::new(vec!["a.A", "b.B"], &[]).unwrap();
        for (path, expected) in [
            ("/a.A/Gone", "the service `a.A` does not implement a method `Gone`"),
            ("/c.C/Get", "this server has no service `c.C`; it serves a.A, b.B"),
            ("/a.A/x/Get", "this server has no service `a.A/x`; it serves a.A, b.B"),
            ("/a.A", "`/a.A` is not the path of a method, which is /package.Service/Method"),
            ("/a.A/", "`/a.A/` is not the path of a method, which is /package.Service/Method"),
            ("//Get", "`//Get` is not the path of a method, which is /package.Service/Method"),
            ("/", "`/` is not the path of a method, which is /package.Service/Method"),
        ] {
            assert_eq!(served.lacks(path), expected, "{path}");
        }
    }

    #[test]
    fn an_answer_is_short_whatever_was_asked_for_and_however_much_is_served() {
        let services = vec!["a.rather.long.name.of.a.Service"; 1_000];
        let said = Served::new(services, &[]).unwrap().lacks(&format!("/{}/Get", "x".repeat(100_000)));
        assert!(said.len() < 1_000, "{} bytes", said.len());
        let said = Served::new(vec!["a.A"; 12], &[]).unwrap().lacks("/b.B/Get");
        assert!(said.ends_with("a.A and 2 more"), "{said}");
    }
}
