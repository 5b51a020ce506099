//! Every method, called by everybody.

use service_kit::{
    auth::{Auth, Role, TABLE},
    testing::refused,
};
use tonic::{Code, Request};

use super::behind::{Behind, NAME, call};

/// The methods that need no token.
const PUBLIC: [&str; 8] = [
    "/shop.product.v1.ProductService/BatchGetProducts",
    "/shop.product.v1.ProductService/GetProduct",
    "/shop.product.v1.ProductService/GetStock",
    "/shop.product.v1.ProductService/ListProducts",
    "/shop.user.v1.UserService/GetJwks",
    "/shop.user.v1.UserService/Login",
    "/shop.user.v1.UserService/RefreshToken",
    "/shop.user.v1.UserService/Register",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_lets_in_whom_its_row_names_and_nobody_else() {
    let behind = Behind::spawn().await;
    let staff = behind.callers.auth("order-service");
    let person = |role| behind.callers.client(behind.channel.clone(), "ada", [role]);
    let (mut passed, mut kept_out) = (0, 0);
    for (path, allowed) in TABLE {
        let is_public = PUBLIC.contains(&path);
        assert_eq!(allowed.is_public(), is_public, "{path}");
        let without = call(Auth::off().client(behind.channel.clone()), path, Request::new(())).await;
        if is_public {
            assert_eq!(without.unwrap(), "nobody", "{path}");
        } else {
            refused(NAME, without, Code::Unauthenticated, "TOKEN_MISSING");
        }
        let callers = [
            (person(Role::Customer), "user:ada", Role::Customer),
            (person(Role::Staff), "user:ada", Role::Staff),
            (person(Role::Admin), "user:ada", Role::Admin),
            (staff.client(behind.channel.clone()), "service:order-service", Role::Customer),
        ];
        for (through, key, role) in callers {
            let caller = match key {
                "user:ada" => service_kit::auth::Caller::User {
                    id: service_kit::value::CustomerId::parse("ada").unwrap(),
                    roles: [role].into(),
                },
                _ => service_kit::auth::Caller::Service("order-service".parse().unwrap()),
            };
            let response = call(through, path, Request::new(())).await;
            if is_public {
                assert_eq!(response.unwrap(), "nobody", "{path}");
            } else if allowed.allows(&caller) {
                assert_eq!(response.unwrap(), key, "{path}");
                passed += 1;
            } else {
                let details = refused(NAME, response, Code::PermissionDenied, "ROLE_MISSING");
                let method = &details.error_info().unwrap().metadata["method"];
                assert_eq!(format!("/{method}"), path);
                kept_out += 1;
            }
        }
    }
    assert!(passed > 60 && kept_out > 40, "{passed} passed, {kept_out} kept out");
}

#[tokio::test]
async fn a_method_without_a_row_is_denied_to_everybody() {
    let behind = Behind::spawn().await;
    let admin = behind.callers.client(behind.channel.clone(), "eve", [Role::Admin]);
    for path in ["/shop.cart.v1.CartService/Steal", "/shop.cart.v1.CartService/getcart"] {
        let response = call(admin.clone(), path, Request::new(())).await;
        refused(NAME, response, Code::PermissionDenied, "METHOD_UNKNOWN");
    }
}

#[tokio::test]
async fn health_is_reported_to_everybody() {
    let behind = Behind::spawn().await;
    for path in ["/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"]
    {
        let through = Auth::off().client(behind.channel.clone());
        let mut client = tonic::client::Grpc::new(through);
        client.ready().await.unwrap();
        let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let response = client.unary(Request::new(()), path, codec).await;
        let code = response.err().map(|status| status.code());
        assert!(!matches!(code, Some(Code::Unauthenticated | Code::PermissionDenied)), "{code:?}");
    }
}
