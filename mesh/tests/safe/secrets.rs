//! No secret is in a log line, a response or an error, at any log level.

use std::{
    io::{self, Write},
    process::Command,
    sync::{Arc, Mutex},
};

use secrecy::ExposeSecret;
use serde_json::json;
use service_kit::testing::TestDatabase;
use tracing_subscriber::{filter::LevelFilter, fmt::MakeWriter};

use crate::{
    rows::ROWS,
    shop::{ADMIN_PASSWORD, Caller, PASSWORD},
    stage::{ORDER, Stage, uuid},
};

/// The captured log.
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

const PAYMENT_METHOD: &str = "pm_canary_5519";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_of_a_whole_shop_is_in_logs_or_errors() {
    let lines = Lines::default();
    let writer = lines.clone();
    // Other tests of this process may log there too, which does no harm.
    tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(writer).with_ansi(false).init();
    let mut secrets = vec![PASSWORD.to_owned(), ADMIN_PASSWORD.to_owned(), PAYMENT_METHOD.to_owned()];
    let mut errors = String::new();
    for database in [TestDatabase::sqlite(), TestDatabase::postgres().await] {
        let stage = Stage::open(&database).await;
        let shop = &stage.shop;
        for row in ROWS {
            for who in [Caller::Nobody, stage.ada.who(), stage.admin(), Caller::Service(ORDER)] {
                let response = shop.call(&who, row.path, &(row.body)(&stage.ada)).await;
                errors += &response.err().map(|why| format!("{why:?}\n")).unwrap_or_default();
            }
        }
        let bob = &stage.bob;
        for (path, body) in [
            (
                "shop.order.v1.OrderService/PayOrder",
                json!({"order_id": bob.order, "payment_method": PAYMENT_METHOD}),
            ),
            (
                "shop.order.v1.OrderService/PayOrder",
                json!({"order_id": uuid(), "payment_method": PAYMENT_METHOD}),
            ),
            ("shop.user.v1.UserService/Register", json!({"email": bob.person.email, "password": PASSWORD})),
            ("shop.user.v1.UserService/Login", json!({"email": "x@shop.example", "password": PASSWORD})),
            (
                "shop.user.v1.UserService/UpdateUser",
                json!({
                    "user": {"user_id": bob.person.id}, "password": format!("{PASSWORD}-new"),
                    "current_password": PASSWORD, "update_mask": "password,nothing",
                }),
            ),
            ("shop.user.v1.UserService/RefreshToken", json!({"refresh_token": bob.person.refresh})),
            ("shop.user.v1.UserService/RefreshToken", json!({"refresh_token": bob.person.refresh})),
        ] {
            let response = shop.call(&bob.who(), path, &body).await;
            errors += &response.err().map(|why| format!("{why:?}\n")).unwrap_or_default();
        }
        for person in [&stage.ada.person, &stage.bob.person, &stage.staff, &stage.admin] {
            // The header and the claims of a token are public; the signature is not.
            secrets.push(person.access.rsplit('.').next().unwrap().to_owned());
            secrets.push(person.refresh.clone());
        }
        secrets.push(shop.seed.to_base64().expose_secret().to_owned());
        secrets.push(format!("{:?}", shop.seed.expose()));
    }
    let logged = String::from_utf8_lossy(&lines.0.lock().unwrap()).into_owned();
    assert!(logged.contains("TRACE") && logged.contains("h2::") && logged.len() > 100_000);
    assert!(errors.len() > 10_000, "failures were recorded");
    for secret in secrets {
        for (place, text) in [("logged", &logged), ("in an error", &errors)] {
            let line = text.lines().find(|line| line.contains(&secret));
            assert_eq!(line, None, "a secret was {place}");
        }
    }
}

/// Runs a process that prints its settings, and one that cannot start with
/// them.
#[test]
fn no_secret_setting_is_shown_by_a_process() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["serve", "order-service", "--print-config"][..], &["serve", "user-service"][..]] {
        let output = Command::new(env!("CARGO_BIN_EXE_mesh"))
            .args(arguments)
            .env("RUST_LOG", "trace")
            .env("CONSUL_HTTP_ADDR", "127.0.0.1:1")
            .env("CONSUL_HTTP_TOKEN", "canary-consul-token")
            .env("AUTH_SERVICE_KEY", "canary-Y2FuYXJ5LWtleS1jYW5hcnkta2V5LWNhbmFyeTE=")
            .env("ADMIN_EMAIL", "root@shop.example")
            .env("ADMIN_PASSWORD", "canary-admin-password")
            .env("DATABASE_URL", "postgres://shop:canary-database@127.0.0.1:1/shop")
            .env("NATS_URL", "nats://shop:canary-nats@127.0.0.1:1")
            .env("CONSORT_STATE_DIR", folder.path())
            .output()
            .unwrap();
        let output_text = [output.stdout, output.stderr]
            .map(|output_text| String::from_utf8(output_text).unwrap())
            .concat();
        assert!(!output_text.is_empty());
        let line = output_text.lines().find(|line| line.contains("canary"));
        assert_eq!(line, None, "{arguments:?}");
    }
}
