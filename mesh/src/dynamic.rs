//! Calls to methods that are known only by name: JSON to protobuf and back,
//! through the shop's descriptor set.

use anyhow::{Context, Result, anyhow, bail};
use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, SerializeOptions};
use prost_types::method_options::IdempotencyLevel;
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// One method of the protocol.
#[derive(Clone, Debug)]
pub(crate) struct Method {
    descriptor: MethodDescriptor,
    path: PathAndQuery,
}

impl Method {
    /// Finds `package.Service/Method`, with or without a leading slash.
    ///
    /// # Errors
    /// When there is no such method; the error names the methods there are.
    pub(crate) fn find(name: &str) -> Result<Self> {
        let pool = DescriptorPool::decode(mesh_proto::FILE_DESCRIPTOR_SET)
            .context("could not read the protocol's descriptors")?;
        let name = name.trim_start_matches('/');
        let (service, method) = name.split_once('/').unwrap_or((name, ""));
        let Some(service) = pool.get_service_by_name(service) else {
            let known: Vec<_> = pool.services().map(|s| s.full_name().to_owned()).collect();
            bail!("there is no method `{name}`; services are {}", known.join(", "));
        };
        let Some(descriptor) = service.methods().find(|m| m.name() == method) else {
            let known: Vec<_> = service.methods().map(|m| m.name().to_owned()).collect();
            bail!("there is no method `{name}`; {} has {}", service.full_name(), known.join(", "));
        };
        if descriptor.is_client_streaming() {
            bail!("`{name}` takes a stream of requests, which this command does not send");
        }
        let path = format!("/{}/{method}", service.full_name()).parse()?;
        Ok(Self { descriptor, path })
    }

    /// The path of its HTTP/2 requests.
    pub(crate) fn path(&self) -> PathAndQuery {
        self.path.clone()
    }

    /// `package.Service/Method`.
    pub(crate) fn full_name(&self) -> &str {
        self.path.path().trim_start_matches('/')
    }

    /// The name that the service is registered under:
    /// `shop.cart.v1.CartService` is `cart-service`.
    pub(crate) fn service_name(&self) -> String {
        kebab(self.descriptor.parent_service().name())
    }

    /// Returns whether the response is a stream.
    pub(crate) fn is_server_streaming(&self) -> bool {
        self.descriptor.is_server_streaming()
    }

    /// Returns whether the method may be sent twice without a further effect.
    pub(crate) fn is_idempotent(&self) -> bool {
        let options = self.descriptor.method_descriptor_proto().options.as_ref();
        options.is_some_and(|o| o.idempotency_level() != IdempotencyLevel::IdempotencyUnknown)
    }

    /// Encodes a request that is given as JSON.
    ///
    /// # Errors
    /// When the text is not JSON or not this method's request.
    pub(crate) fn encode(&self, json: &str) -> Result<Bytes> {
        let input = self.descriptor.input();
        let mut reader = serde_json::Deserializer::from_str(json);
        let message = DynamicMessage::deserialize(input.clone(), &mut reader)
            .and_then(|message| reader.end().map(|()| message))
            .map_err(|e| {
                let fields: Vec<_> = input.fields().map(|f| f.name().to_owned()).collect();
                anyhow!(
                    "the data is not a {} in JSON: {e}; its fields are {}",
                    input.full_name(),
                    fields.join(", ")
                )
            })?;
        Ok(message.encode_to_vec().into())
    }

    /// Decodes a response into JSON, with the field names of the protocol.
    ///
    /// # Errors
    /// When the bytes are not this method's response.
    pub(crate) fn decode(&self, bytes: Bytes) -> Result<serde_json::Value> {
        let message = DynamicMessage::decode(self.descriptor.output(), bytes)
            .with_context(|| format!("the response is not a {}", self.descriptor.output().full_name()))?;
        let options = SerializeOptions::new().use_proto_field_name(true);
        message
            .serialize_with_options(serde_json::value::Serializer, &options)
            .context("could not write the response as JSON")
    }
}

/// `CartService` → `cart-service`.
fn kebab(camel: &str) -> String {
    let mut out = String::with_capacity(camel.len() + 2);
    for (i, c) in camel.char_indices() {
        if c.is_ascii_uppercase() && i > 0 {
            out.push('-');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// A codec that passes messages on as bytes: a request is encoded once, and a
/// response is decoded only where it is read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(input.copy_to_bytes(input.remaining())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_and_its_promise_follow_from_the_method() {
        let get = Method::find("shop.cart.v1.CartService/GetCart").unwrap();
        assert_eq!(get.service_name(), "cart-service");
        assert_eq!(get.path().as_str(), "/shop.cart.v1.CartService/GetCart");
        assert!(get.is_idempotent() && !get.is_server_streaming());
        let add = Method::find("/shop.cart.v1.CartService/AddItem").unwrap();
        assert!(!add.is_idempotent(), "adding twice adds twice");
        assert!(Method::find("shop.cart.v1.CartService/WatchCart").unwrap().is_server_streaming());
    }

    #[test]
    fn an_unknown_method_is_answered_with_those_there_are() {
        let text = |name| Method::find(name).unwrap_err().to_string();
        assert!(text("shop.cart.v1.CartService/Get").contains("GetCart, AddItem"));
        assert!(text("shop.cart.v1.CartService").contains("GetCart, AddItem"));
        assert!(text("Cart/Get").contains("shop.cart.v1.CartService"));
    }

    #[test]
    fn json_becomes_a_request_and_an_answer_json() {
        let get = Method::find("shop.cart.v1.CartService/GetCart").unwrap();
        let bytes = get.encode(r#"{"customer_id":"ada"}"#).unwrap();
        let request = mesh_proto::shop::cart::v1::GetCartRequest::decode(bytes).unwrap();
        assert_eq!(request.customer_id, "ada");

        let cart = mesh_proto::shop::cart::v1::Cart { customer_id: "ada".into(), ..Default::default() };
        let json = get.decode(cart.encode_to_vec().into()).unwrap();
        assert_eq!(json, serde_json::json!({"customer_id": "ada"}));
    }

    #[test]
    fn data_that_is_not_the_request_says_what_would_be() {
        let get = Method::find("shop.cart.v1.CartService/GetCart").unwrap();
        for bad in [r#"{"customer":1}"#, r#"{"customer_id":"#, r#"{} {}"#, "[]"] {
            let text = get.encode(bad).unwrap_err().to_string();
            assert!(text.contains("its fields are customer_id"), "{text}");
        }
    }
}
