//! The request of each call, made from `--data`.

use anyhow::Result;
use bytes::Bytes;

use crate::dynamic::Method;

/// A request in which `{{uuid}}` and `{{n}}` get a new value in each call. A
/// request without them is encoded once.
#[derive(Clone, Debug)]
pub(crate) enum Template {
    Fixed(Bytes),
    Varying { method: Method, parts: Vec<Part> },
}

/// A piece of the JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Text(String),
    Uuid,
    Number,
}

impl Template {
    /// Parses `data`, and encodes a first request to validate it.
    ///
    /// # Errors
    /// When `data` is not a request of `method`.
    pub(crate) fn new(method: &Method, data: &str) -> Result<Self> {
        let parts = split(data);
        let first = method.encode(&render(&parts, 0))?;
        if parts.iter().all(|p| matches!(p, Part::Text(_))) {
            return Ok(Self::Fixed(first));
        }
        Ok(Self::Varying { method: method.clone(), parts })
    }

    /// The request of call `n`.
    ///
    /// # Errors
    /// When the value of a placeholder does not fit where it stands.
    pub(crate) fn request(&self, n: u64) -> Result<Bytes> {
        match self {
            Self::Fixed(bytes) => Ok(bytes.clone()),
            Self::Varying { method, parts } => method.encode(&render(parts, n)),
        }
    }
}

fn split(data: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = data;
    let placeholders = [("{{uuid}}", Part::Uuid), ("{{n}}", Part::Number)];
    while let Some((at, text, part)) = placeholders
        .iter()
        .filter_map(|(text, part)| Some((rest.find(text)?, text, part)))
        .min_by_key(|f| f.0)
    {
        parts.push(Part::Text(rest[..at].to_owned()));
        parts.push(part.clone());
        rest = &rest[at + text.len()..];
    }
    parts.push(Part::Text(rest.to_owned()));
    parts
}

fn render(parts: &[Part], n: u64) -> String {
    let mut out = String::new();
    for part in parts {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Uuid => {
                let mut buffer = uuid::Uuid::encode_buffer();
                out.push_str(uuid::Uuid::new_v4().hyphenated().encode_lower(&mut buffer));
            }
            Part::Number => out.push_str(&n.to_string()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn placeholders_are_new_in_each_call() {
        let method = Method::find("shop.order.v1.OrderService/CreateOrder").unwrap();
        let data = r#"{"customer_id":"c-{{n}}","request_id":"{{uuid}}"}"#;
        let template = Template::new(&method, data).unwrap();
        let request = |n| {
            mesh_proto::shop::order::v1::CreateOrderRequest::decode(template.request(n).unwrap()).unwrap()
        };
        let (one, two) = (request(1), request(2));
        assert_eq!((one.customer_id.as_str(), two.customer_id.as_str()), ("c-1", "c-2"));
        assert_ne!(one.request_id, two.request_id);
        assert_eq!(one.request_id.len(), 36);
    }

    #[test]
    fn without_placeholders_it_is_encoded_once() {
        let method = Method::find("shop.cart.v1.CartService/GetCart").unwrap();
        let template = Template::new(&method, r#"{"customer_id":"ada"}"#).unwrap();
        assert!(matches!(template, Template::Fixed(_)));
    }

    #[test]
    fn data_is_refused_before_the_first_call() {
        let method = Method::find("shop.cart.v1.CartService/GetCart").unwrap();
        assert!(Template::new(&method, r#"{"customer":"{{n}}"}"#).is_err());
    }
}
