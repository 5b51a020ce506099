//! Secrets are not logged, at any level.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use mesh_proto::shop::user::v1::{LoginRequest, user_service_client::UserServiceClient};
use secrecy::ExposeSecret;
use serde_json::json;
use service_kit::{
    auth::{Claims, Outgoing, Role, Seed, Signer},
    testing::{Callers, mesh_of, mesh_to},
    value::CustomerId,
};
use tracing_subscriber::{filter::LevelFilter, fmt::MakeWriter};

use super::{
    behind::{Behind, call},
    forge::Forge,
    users::Users,
};

const PASSWORD: &str = "canary-password-8842";
const METHOD: &str = "/shop.order.v1.OrderService/GetOrder";

/// Everything that is logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn no_secret_stands_in_any_log_line() {
    let lines = Lines::default();
    let writer = lines.clone();
    // Others of this process log there too, which makes it no less true.
    tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(writer).with_ansi(false).init();
    let mut secrets = vec![PASSWORD.to_owned()];

    let users = Users::default();
    let signer = Signer::generate().unwrap();
    users.has(&[signer.public()]);
    let replica = users.spawn().await;
    let behind = Behind::over(mesh_of([("user-service", vec![replica.address])])).await;
    let forge = Forge::of(&behind.callers);
    let claims = Claims::new(CustomerId::parse("ada").unwrap(), [Role::Customer], Duration::from_secs(60));
    let tokens = [
        signer.sign(&claims),
        Signer::generate().unwrap().sign(&claims),
        forge.good(),
        forge.headed(&json!({ "alg": "none" })),
        forge.claiming(&json!({ "exp": 1 })),
        forge.service(&json!({})),
        "canary-token-1177.canary-token-1178.canary-token-1179".to_owned(),
    ];
    for token in &tokens {
        let through = Outgoing::with_token(behind.channel.clone(), &token.as_str().into()).unwrap();
        for path in [METHOD, "/shop.payment.v1.PaymentService/Charge"] {
            let _ = call(through.clone(), path, tonic::Request::new(())).await;
        }
        // The header names a key, which is public.
        secrets.extend(token.split('.').skip(1).map(str::to_owned));
    }
    let service = behind.callers.auth("order-service").client(behind.channel.clone());
    call(service, "/shop.payment.v1.PaymentService/Charge", tonic::Request::new(())).await.unwrap();

    let channel = mesh_to([replica.address]).channel("user-service");
    let login = LoginRequest { email: "ada@shop.example".into(), password: PASSWORD.into() };
    UserServiceClient::new(channel).login(login).await.unwrap_err();

    secrets.extend(of(behind.callers.seed()));
    secrets.extend(of(behind.callers.signer().seed()));
    secrets.extend(of(signer.seed()));
    let logged = String::from_utf8_lossy(&lines.0.lock().unwrap()).into_owned();
    assert!(logged.contains("TRACE") && logged.contains("h2::"), "everything is captured");
    for secret in secrets.iter().filter(|secret| secret.len() > 8) {
        let line = logged.lines().find(|line| line.contains(secret.as_str()));
        assert_eq!(line, None, "a secret was logged");
    }
}

/// A seed as it might be written.
fn of(seed: &Seed) -> [String; 3] {
    let hex = seed.expose().iter().map(|byte| format!("{byte:02x}")).collect();
    [seed.to_base64().expose_secret().to_owned(), hex, format!("{:?}", seed.expose())]
}

#[test]
fn what_holds_a_secret_does_not_show_it() {
    let callers = Callers::new();
    let token = callers.token("ada", [Role::Admin]);
    let auth = callers.auth("order-service");
    let shown = format!("{callers:?} {auth:?} {token:?} {:?} {:?}", callers.seed(), callers.signer());
    let secrets = of(callers.seed()).into_iter().chain(of(callers.signer().seed()));
    for secret in secrets.chain([token.expose_secret().to_owned()]) {
        assert!(!shown.contains(&secret), "{shown}");
    }
}
