//! The access rules: one row for each method of the protocol.

use std::{collections::HashMap, fmt, sync::LazyLock};

use super::{Caller, Role};

/// The access rule of a method. The handler checks the owner of a cart, order or
/// account, by [`Caller::may_act_for`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessRule {
    people: People,
    services: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum People {
    /// Everybody, without a token.
    All,
    /// Everybody with an account.
    SignedIn,
    Staff,
    Admin,
    None,
}

/// Everybody, with or without a token.
const PUBLIC: AccessRule = AccessRule { people: People::All, services: true };
/// Everybody with an account; the handler checks the owner.
const CUSTOMER: AccessRule = AccessRule { people: People::SignedIn, services: false };
/// Staff and admins.
const STAFF: AccessRule = AccessRule { people: People::Staff, services: false };
/// Admins.
const ADMIN: AccessRule = AccessRule { people: People::Admin, services: false };
/// The shop's own services, and no people.
const SERVICE: AccessRule = AccessRule { people: People::None, services: true };

impl AccessRule {
    /// Adds the shop's own services.
    const fn or_service(self) -> Self {
        Self { people: self.people, services: true }
    }

    /// True when no token is needed.
    #[must_use]
    pub fn is_public(self) -> bool {
        self.people == People::All
    }

    /// True when `caller` may call the method.
    #[must_use]
    pub fn allows(self, caller: &Caller) -> bool {
        match caller {
            Caller::Unrestricted => true,
            Caller::Anonymous => self.is_public(),
            Caller::Service(_) => self.services,
            Caller::User { .. } => match self.people {
                People::All | People::SignedIn => true,
                People::Staff => caller.has(Role::Staff),
                People::Admin => caller.has(Role::Admin),
                People::None => false,
            },
        }
    }
}

impl fmt::Display for AccessRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let people = match self.people {
            People::All => return f.write_str("everybody"),
            People::None => return f.write_str("the shop's own services"),
            People::SignedIn => "users",
            People::Staff => "staff",
            People::Admin => "admins",
        };
        f.write_str(people)?;
        if self.services { f.write_str(" and the shop's own services") } else { Ok(()) }
    }
}

/// The path and the access rule of each method.
pub const TABLE: [(&str, AccessRule); 43] = [
    // A cart belongs to its customer; order-service reads and empties it.
    ("/shop.cart.v1.CartService/GetCart", CUSTOMER.or_service()),
    ("/shop.cart.v1.CartService/AddItem", CUSTOMER),
    ("/shop.cart.v1.CartService/UpdateItem", CUSTOMER),
    ("/shop.cart.v1.CartService/RemoveItem", CUSTOMER),
    ("/shop.cart.v1.CartService/ClearCart", CUSTOMER.or_service()),
    ("/shop.cart.v1.CartService/WatchCart", CUSTOMER),
    // Services deliver events to each other; only admins inspect them.
    ("/shop.events.v1.EventSinkService/Deliver", SERVICE),
    ("/shop.events.v1.EventLogService/GetBacklog", ADMIN),
    ("/shop.events.v1.EventLogService/ListParkedEvents", ADMIN),
    ("/shop.events.v1.EventLogService/RetryParkedEvent", ADMIN),
    // An order belongs to its customer; staff ships it.
    ("/shop.order.v1.OrderService/CreateOrder", CUSTOMER),
    ("/shop.order.v1.OrderService/GetOrder", CUSTOMER),
    ("/shop.order.v1.OrderService/ListOrders", CUSTOMER),
    ("/shop.order.v1.OrderService/PayOrder", CUSTOMER),
    ("/shop.order.v1.OrderService/ShipOrder", STAFF),
    ("/shop.order.v1.OrderService/CompleteOrder", STAFF),
    ("/shop.order.v1.OrderService/CancelOrder", CUSTOMER),
    ("/shop.order.v1.OrderService/WatchOrder", CUSTOMER),
    // Only order-service charges, so no person charges another.
    ("/shop.payment.v1.PaymentService/Charge", SERVICE),
    ("/shop.payment.v1.PaymentService/Refund", SERVICE),
    ("/shop.payment.v1.PaymentService/GetCharge", STAFF.or_service()),
    ("/shop.payment.v1.PaymentService/ListCharges", STAFF),
    ("/shop.payment.v1.PaymentService/GetBalance", STAFF),
    // Everybody may read the catalogue; staff changes it.
    ("/shop.product.v1.ProductService/CreateProduct", STAFF),
    ("/shop.product.v1.ProductService/GetProduct", PUBLIC),
    ("/shop.product.v1.ProductService/BatchGetProducts", PUBLIC),
    ("/shop.product.v1.ProductService/ListProducts", PUBLIC),
    ("/shop.product.v1.ProductService/UpdateProduct", STAFF),
    ("/shop.product.v1.ProductService/DeleteProduct", STAFF),
    ("/shop.product.v1.ProductService/GetStock", PUBLIC),
    ("/shop.product.v1.ProductService/SetStock", STAFF),
    ("/shop.product.v1.ProductService/ReserveStock", SERVICE),
    ("/shop.product.v1.ProductService/GetReservation", SERVICE),
    ("/shop.product.v1.ProductService/CommitReservation", SERVICE),
    ("/shop.product.v1.ProductService/ReleaseReservation", SERVICE),
    // Callers without an account have no token.
    ("/shop.user.v1.UserService/Register", PUBLIC),
    ("/shop.user.v1.UserService/Login", PUBLIC),
    ("/shop.user.v1.UserService/RefreshToken", PUBLIC),
    ("/shop.user.v1.UserService/GetUser", CUSTOMER),
    ("/shop.user.v1.UserService/UpdateUser", CUSTOMER),
    ("/shop.user.v1.UserService/DeleteUser", CUSTOMER),
    ("/shop.user.v1.UserService/GetJwks", PUBLIC),
    ("/shop.user.v1.UserService/ListNotifications", CUSTOMER),
];

/// The access rule of the method at `path`; `None` for one without a row, which
/// no caller may call.
pub(super) fn access_rule(path: &str) -> Option<AccessRule> {
    static BY_PATH: LazyLock<HashMap<&str, AccessRule>> = LazyLock::new(|| TABLE.into_iter().collect());
    BY_PATH.get(path).copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;
    use crate::{auth::Roles, value::CustomerId};

    fn methods() -> BTreeSet<String> {
        let set = FileDescriptorSet::decode(mesh_proto::FILE_DESCRIPTOR_SET).unwrap();
        let services = set.file.iter().flat_map(|file| file.service.iter().map(move |s| (file.package(), s)));
        let methods = services.flat_map(|(package, service)| {
            let path = move |method: &str| format!("/{package}.{}/{method}", service.name());
            service.method.iter().map(move |method| path(method.name()))
        });
        methods.collect()
    }

    #[test]
    fn every_method_has_one_row_and_every_row_a_method() {
        let rows: BTreeSet<_> = TABLE.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(rows.len(), TABLE.len(), "a method has two rows");
        let methods = methods();
        assert!(methods.len() > 40, "the descriptor set is read");
        let without: Vec<_> = methods.difference(&rows).collect();
        assert!(without.is_empty(), "add access rules for {without:?}");
        let gone: Vec<_> = rows.difference(&methods).collect();
        assert!(gone.is_empty(), "there are no such methods: {gone:?}");
    }

    #[test]
    fn a_method_without_a_row_has_no_access_rule() {
        for path in ["", "/", "/shop.cart.v1.CartService/getcart", "/shop.cart.v1.CartService/GetCart/"] {
            assert_eq!(access_rule(path), None, "{path}");
        }
    }

    #[test]
    fn higher_roles_may_call_more_methods() {
        let user = |role| Caller::User { id: CustomerId::parse("ada").unwrap(), roles: Roles::from([role]) };
        let callers = [
            Caller::Anonymous,
            user(Role::Customer),
            user(Role::Staff),
            user(Role::Admin),
            Caller::Service("order-service".parse().unwrap()),
        ];
        let may = |rule: AccessRule| callers.each_ref().map(|caller| rule.allows(caller));
        assert_eq!(may(PUBLIC), [true, true, true, true, true]);
        assert_eq!(may(CUSTOMER), [false, true, true, true, false]);
        assert_eq!(may(STAFF), [false, false, true, true, false]);
        assert_eq!(may(ADMIN), [false, false, false, true, false]);
        assert_eq!(may(SERVICE), [false, false, false, false, true]);
        assert_eq!(may(STAFF.or_service()), [false, false, true, true, true]);
    }

    #[test]
    fn money_and_goods_move_by_services_only() {
        for path in TABLE.iter().map(|(path, _)| *path) {
            let moves =
                ["Charge", "Refund", "ReserveStock", "CommitReservation", "ReleaseReservation", "Deliver"];
            let method = path.rsplit('/').next().unwrap();
            if moves.contains(&method) {
                assert_eq!(access_rule(path), Some(SERVICE), "{path}");
            }
        }
    }
}
