//! Secrets stay out of the logs.

use std::{
    io,
    sync::{Arc, Mutex},
};

use service_kit::testing::TestDatabase;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::app::{TestApp, update};

/// The whole log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// A process of its own under nextest; otherwise other tests only add lines.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_password_token_or_address_is_in_a_log_of_any_level() {
    let log = Log::default();
    let lines = tracing_subscriber::fmt().with_env_filter(EnvFilter::new("trace"));
    lines.with_ansi(false).with_writer(log.clone()).init();
    let (email, password, new) = ("canary-mail@example.com", "canary-password-one", "canary-password-two");

    for database in [TestDatabase::sqlite(), TestDatabase::postgres().await] {
        let app = TestApp::spawn(database).await;
        let user = app.register(email, password).await.unwrap();
        app.register(email, password).await.unwrap_err();
        app.login(email, "canary-password-bad").await.unwrap_err();
        let first = app.login(email, password).await.unwrap();
        let second = app.refresh(&first.refresh_token).await.unwrap();
        let mut request = update(&user, &["password"]);
        request.password = new.into();
        app.update(request).await.unwrap();
        app.refresh(&second.refresh_token).await.unwrap_err();
        let third = app.login(email, new).await.unwrap();
        app.delete(&user.user_id).await.unwrap();
        for replica in app.replicas {
            replica.stop().await;
        }

        let logged = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
        assert!(logged.contains("TRACE") && logged.len() > 10_000, "too little was logged to say anything");
        for tokens in [&first, &second, &third] {
            for token in [&tokens.access_token, &tokens.refresh_token] {
                let signature = token.rsplit('.').next().unwrap();
                assert!(!logged.contains(signature), "a token is in the log");
            }
        }
        for secret in ["canary-password", "$argon2id$", "canary-mail"] {
            let line = logged.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "`{secret}` is in the log: {line:?}");
        }
    }
}
