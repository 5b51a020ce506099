//! What `mesh up` prints when everything runs.

use std::time::Duration;

use crate::{
    services::Service,
    state::Files,
    table::table,
    up::overview::{Overview, Seen},
};

/// What the banner tells besides the instances.
#[derive(Debug)]
pub(crate) struct Banner<'a> {
    /// The registry's URL.
    pub(crate) registry: &'a str,
    /// What kind it is, for people.
    pub(crate) kind: &'a str,
    /// Its web pages.
    pub(crate) ui: String,
    pub(crate) files: &'a Files,
    /// The SKU that the example adds to a cart.
    pub(crate) product: String,
    /// The id of the example's order: the same line pasted twice is the same
    /// order.
    pub(crate) request_id: String,
    /// Whether the registry is asked with a token.
    pub(crate) token: bool,
    pub(crate) took: Duration,
}

impl Banner<'_> {
    /// All of it: the instances, the URLs, and lines to paste.
    pub(crate) fn text(&self, overview: &Overview) -> String {
        let head = ["SERVICE", "INSTANCE", "ADDRESS", "PID", "HEALTH"];
        let rows: Vec<_> = overview.instances.iter().map(row).collect();
        format!(
            "{}\nregistry  {}  ({})\nUI        {}\ndata      {}\nlogs      {}\n\nTry\n{}\nReady after {:.1} s. \
             Ctrl-C stops everything.\n",
            table(head, &rows),
            self.registry,
            self.kind,
            self.ui,
            self.files.data().display(),
            self.files.logs().display(),
            self.examples(overview),
            self.took.as_secs_f64(),
        )
    }

    /// Lines that work when pasted.
    fn examples(&self, overview: &Overview) -> String {
        let at = |service| {
            let first = overview.instances.iter().find(|seen| seen.service == service);
            first.map(|seen| seen.address.to_string()).unwrap_or_default()
        };
        let (cart, order) = (at(Service::Cart), at(Service::Order));
        let Self { registry, product, request_id, .. } = self;
        let token = if self.token { " -H \"X-Consul-Token: $CONSUL_HTTP_TOKEN\"" } else { "" };
        [
            format!("grpcurl -plaintext {cart} list"),
            format!(
                "grpcurl -plaintext -d '{{\"customer_id\":\"ada\",\"product_id\":\"{product}\",\"quantity\":2}}' \
                 {cart} shop.cart.v1.CartService/AddItem"
            ),
            format!(
                "grpcurl -plaintext -d '{{\"customer_id\":\"ada\",\"request_id\":\"{request_id}\"}}' {order} \
                 shop.order.v1.OrderService/CreateOrder"
            ),
            format!("curl -s{token} '{registry}/v1/health/service/cart-service?passing'"),
            format!("curl -s{token} '{registry}/v1/catalog/services'"),
        ]
        .map(|line| format!("  {line}\n"))
        .concat()
    }
}

fn row(seen: &Seen) -> [String; 5] {
    [
        seen.service.name().to_owned(),
        seen.id.as_ref().map(ToString::to_string).unwrap_or_default(),
        seen.address.to_string(),
        seen.pid.map(|pid| pid.to_string()).unwrap_or_default(),
        seen.health().to_owned(),
    ]
}
