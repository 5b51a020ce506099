//! The services of a server, and the error texts for unknown ones.

use std::collections::HashMap;

use super::super::descriptors::{self, MethodDescriptor, MethodKind};
use crate::Error;

/// The most services that an error text lists, and the most characters of a
/// caller's request that it repeats: enough to see the mistake, and few enough
/// for a header.
const MAX_LISTED: usize = 10;
pub(in crate::server) const MAX_ECHOED: usize = 200;

/// The services of a server, and the kinds of their described methods.
#[derive(Debug)]
pub(in crate::server) struct Served {
    services: Vec<&'static str>,
    kinds: HashMap<Box<str>, MethodKind>,
}

impl Served {
    /// The described methods of `services`, the server's own first.
    ///
    /// # Errors
    /// When a descriptor set cannot be decoded.
    pub(in crate::server) fn new(
        services: Vec<&'static str>,
        descriptors: &[&'static [u8]],
    ) -> Result<Self, Error> {
        let methods = descriptors::methods(&services, descriptors)?;
        let kinds = methods.into_iter().map(|MethodDescriptor { path, kind }| (path, kind)).collect();
        Ok(Self { services, kinds })
    }

    /// The kind of the method at `path`; `None` without a descriptor.
    pub(in crate::server) fn kind(&self, path: &str) -> Option<MethodKind> {
        self.kinds.get(path).copied()
    }

    /// The error text for an unknown `path`.
    pub(super) fn describe_missing(&self, path: &str) -> String {
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
            assert_eq!(served.describe_missing(path), expected, "{path}");
        }
    }

    #[test]
    fn an_answer_is_short_whatever_was_asked_for_and_however_much_is_served() {
        let services = vec!["a.rather.long.name.of.a.Service"; 1_000];
        let said =
            Served::new(services, &[]).unwrap().describe_missing(&format!("/{}/Get", "x".repeat(100_000)));
        assert!(said.len() < 1_000, "{} bytes", said.len());
        let said = Served::new(vec!["a.A"; 12], &[]).unwrap().describe_missing("/b.B/Get");
        assert!(said.ends_with("a.A and 2 more"), "{said}");
    }
}
