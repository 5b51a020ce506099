//! The banner that `mesh up` prints when everything runs.

use std::time::Duration;

use crate::{
    services::Service,
    state::StatePaths,
    table::table,
    up::{
        access::{Access, Secrets},
        overview::{Overview, ProcessStatus},
        seed::Customer,
    },
};

/// The content of the banner besides the instances.
#[derive(Debug)]
pub(crate) struct Banner<'a> {
    /// The registry's URL.
    pub(crate) registry: &'a str,
    /// The kind of registry, for people.
    pub(crate) kind: &'a str,
    /// The URL of its web UI.
    pub(crate) ui: String,
    /// The DNS port on loopback, if it serves DNS.
    pub(crate) dns: Option<u16>,
    pub(crate) files: &'a StatePaths,
    /// The SKU that the example adds to a cart.
    pub(crate) product: String,
    /// The id of the example's order: the same line pasted twice is the same
    /// order.
    pub(crate) request_id: String,
    /// True if requests to the registry carry a token.
    pub(crate) has_consul_token: bool,
    /// The authentication of callers.
    pub(crate) access: &'a Access,
    /// The customer of the examples, if callers are authenticated.
    pub(crate) customer: Option<&'a Customer>,
    pub(crate) took: Duration,
}

impl Banner<'_> {
    /// All of it: the instances, the URLs, and lines to paste.
    pub(crate) fn text(&self, overview: &Overview) -> String {
        let head = ["SERVICE", "INSTANCE", "ADDRESS", "PID", "HEALTH"];
        let rows: Vec<_> = overview.instances.iter().map(row).collect();
        format!(
            "{}\nregistry  {}  ({})\nUI        {}\ndata      {}\nlogs      {}\ncallers   {}\n\nTry\n{}\nReady after \
             {:.1} s. Ctrl-C stops everything.\n",
            table(head, &rows),
            self.registry,
            self.kind,
            self.ui,
            self.files.data().display(),
            self.files.logs().display(),
            self.callers(),
            self.examples(overview),
            self.took.as_secs_f64(),
        )
    }

    /// The lines on the authentication of callers, and how to log in.
    fn callers(&self) -> String {
        match (self.access, self.customer) {
            (Access::Authenticated(Secrets { admin, customer, .. }), Some(Customer { token, .. })) => {
                format!(
                    "need a token; this one is {}'s\n\n{token}\n\nFor another, log in as below; {} logs in the admin, {}",
                    customer.email,
                    admin.login.display(),
                    admin.email,
                )
            }
            _ => "are not authenticated; `mesh up --auth` turns that on".to_owned(),
        }
    }

    /// Lines that work when pasted.
    fn examples(&self, overview: &Overview) -> String {
        let at = |service| {
            let first = overview.instances.iter().find(|process| process.service == service);
            first.map(|process| process.address.to_string()).unwrap_or_default()
        };
        let (cart, order) = (at(Service::Cart), at(Service::Order));
        let Self { registry, product, request_id, .. } = self;
        let token = if self.has_consul_token { " -H \"X-Consul-Token: $CONSUL_HTTP_TOKEN\"" } else { "" };
        let customer = self.customer.map_or("ada", |customer| &customer.id);
        let bearer = self.customer.map(|customer| format!(" -H 'authorization: Bearer {}'", customer.token));
        let bearer = bearer.unwrap_or_default();
        let mut lines = vec![
            format!("grpcurl -plaintext {cart} list"),
            format!(
                "grpcurl -plaintext{bearer} -d \
                 '{{\"customer_id\":\"{customer}\",\"product_id\":\"{product}\",\"quantity\":2}}' {cart} \
                 shop.cart.v1.CartService/AddItem"
            ),
            format!(
                "grpcurl -plaintext{bearer} -d \
                 '{{\"customer_id\":\"{customer}\",\"request_id\":\"{request_id}\"}}' {order} \
                 shop.order.v1.OrderService/CreateOrder"
            ),
            format!("curl -s{token} '{registry}/v1/health/service/cart-service?passing'"),
            format!("curl -s{token} '{registry}/v1/catalog/services'"),
        ];
        if let Some(port) = self.dns {
            lines.push(format!("dig @127.0.0.1 -p {port} {}.service.consul SRV", Service::Cart));
        }
        if let Access::Authenticated(secrets) = self.access {
            let login = secrets.customer.login.display();
            lines.push(format!(
                "grpcurl -plaintext -d @ {} shop.user.v1.UserService/Login < '{login}'",
                at(Service::User)
            ));
        }
        lines.into_iter().map(|line| format!("  {line}\n")).collect()
    }
}

fn row(process: &ProcessStatus) -> [String; 5] {
    [
        process.service.name().to_owned(),
        process.id.as_ref().map(ToString::to_string).unwrap_or_default(),
        process.address.to_string(),
        process.pid.map(|pid| pid.to_string()).unwrap_or_default(),
        process.health().to_owned(),
    ]
}
