//! `GetJwks` and the succession of keys.

use std::time::Duration;

use service_kit::{
    auth::{Auth, PublicKey},
    database::Database,
    events::Outbox,
    on_both_databases,
    service::Service,
    testing::TestDatabase,
};
use tokio::task::JoinSet;
use user_service::{
    Clock, Error, NAME, SUBSCRIBERS, UserService,
    encryption::EncryptionKeys,
    keys::{KeySchedule, Keyring},
    store::Store,
};

use crate::app::{EMAIL, PASSWORD, TestApp};

const MINUTE: Duration = Duration::from_secs(60);

async fn replica(database: &TestDatabase, clock: &Clock) -> Keyring {
    opened(database, clock, "none").await.unwrap()
}

/// A replica that encrypts under `keys`.
async fn opened(database: &TestDatabase, clock: &Clock, keys: &str) -> Result<Keyring, Error> {
    let open = Database::open(database.url(), &UserService::MIGRATIONS).await.unwrap();
    let keys = EncryptionKeys::parse(&keys.into()).unwrap();
    let store = Store::new(open, Outbox::new(NAME, SUBSCRIBERS)).encrypted_under(keys);
    Keyring::open(store, clock.clone(), KeySchedule::default(), Auth::off()).await
}

async fn kids(keyring: &Keyring) -> Vec<String> {
    keyring.published().await.unwrap().into_iter().map(|key| key.kid).collect()
}

async fn signing(keyring: &Keyring) -> String {
    keyring.sign(|signer| signer.kid().to_owned()).await.unwrap()
}

async fn the_key_that_signed_a_token_is_published(database: TestDatabase) {
    let app = TestApp::with_replicas(database, 2).await;
    app.ada().await;
    let token = app.login(EMAIL, PASSWORD).await.unwrap().access_token;
    let header = token.split('.').next().unwrap();
    let (here, there) = (app.jwks(0).await, app.jwks(1).await);
    assert_eq!(here, there);
    let key = PublicKey::from_jwk(&here[0]).unwrap();
    let header = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, header).unwrap();
    assert!(String::from_utf8(header).unwrap().contains(key.kid()));
    assert_eq!(app.restart().await.jwks(0).await, here);
}

async fn a_key_is_published_before_it_signs_and_until_its_tokens_expire(database: TestDatabase) {
    let clock = Clock::system();
    let keyring = replica(&database, &clock).await;
    let first = signing(&keyring).await;
    assert_eq!(kids(&keyring).await, [first.as_str()]);

    clock.advance(24 * 60 * MINUTE - 9 * MINUTE);
    keyring.refresh().await.unwrap();
    let both = kids(&keyring).await;
    assert_eq!((both.len(), signing(&keyring).await.as_str()), (2, first.as_str()));
    let second = both[0].clone();

    clock.advance(9 * MINUTE);
    assert_eq!(signing(&keyring).await, second, "it signs from then on, also without a refresh");
    keyring.refresh().await.unwrap();
    assert_eq!(kids(&keyring).await, both, "the first has tokens that are still good");

    clock.advance(21 * MINUTE);
    assert_eq!(kids(&keyring).await, [second.as_str()]);
    keyring.refresh().await.unwrap();
    assert_eq!((kids(&keyring).await, signing(&keyring).await), (vec![second.clone()], second));
}

async fn concurrent_refreshes_add_one_key_and_all_replicas_sign_with_it(database: TestDatabase) {
    let clock = Clock::system();
    let mut opening = JoinSet::new();
    let shared = std::sync::Arc::new(database);
    for _ in 0..4 {
        let (database, clock) = (shared.clone(), clock.clone());
        opening.spawn(async move { replica(&database, &clock).await });
    }
    let replicas = opening.join_all().await;
    for round in 1..4 {
        let mut signers = Vec::new();
        for keyring in &replicas {
            signers.push(signing(keyring).await);
        }
        signers.dedup();
        assert_eq!(signers.len(), 1, "round {round}");
        clock.advance(24 * 60 * MINUTE - 5 * MINUTE);
        let looking: JoinSet<_> =
            replicas.iter().cloned().map(|keyring| async move { keyring.refresh().await.unwrap() }).collect();
        looking.join_all().await;
        assert_eq!(kids(&replicas[0]).await.len(), 2, "round {round}");
        clock.advance(10 * MINUTE);
    }
}

async fn after_a_long_sleep_a_key_signs_at_once(database: TestDatabase) {
    let clock = Clock::system();
    let keyring = replica(&database, &clock).await;
    let first = signing(&keyring).await;
    clock.advance(100 * 24 * 60 * MINUTE);
    let next = signing(&keyring).await;
    assert_ne!(next, first);
    assert_eq!(kids(&keyring).await, [next]);
}

async fn keys_are_encrypted_and_their_key_replaced_without_a_token_lost(database: TestDatabase) {
    const OLD: &str = "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=";
    const NEW: &str = "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY=";
    let clock = Clock::system();
    let open = Database::open(database.url(), &UserService::MIGRATIONS).await.unwrap();
    let stored = async || {
        let rows = open.rows("SELECT seed FROM signing_keys", &[]).await.unwrap();
        rows.iter().map(|row| row.get::<Vec<u8>>("seed").unwrap()).collect::<Vec<_>>()
    };
    let first = signing(&replica(&database, &clock).await).await;
    let clear = stored().await;
    assert_eq!(clear[0].len(), 32);

    // One replica after the other starts with the next list, while the one
    // before goes on.
    let mut before = replica(&database, &clock).await;
    let steps = [
        &format!("none,{OLD}"),
        &format!("{OLD},none"),
        OLD,
        &format!("{OLD},{NEW}"),
        &format!("{NEW},{OLD}"),
        NEW,
    ];
    let mut seen = Vec::new();
    for keys in steps {
        let after = opened(&database, &clock, keys).await.unwrap();
        before.refresh().await.unwrap();
        assert_eq!((signing(&before).await, signing(&after).await), (first.clone(), first.clone()), "{keys}");
        seen.extend(stored().await);
        before = after;
    }
    seen.dedup();
    assert_eq!(seen.len(), 3, "in clear, under the first and under the second; no replica reverted it");
    assert!(seen[1..].iter().all(|stored| !stored.windows(32).any(|part| part == clear[0])));

    for (keys, said) in [(OLD, "encrypted under the key"), ("none", "AUTH_ENCRYPTION_KEYS")] {
        let why = opened(&database, &clock, keys).await.unwrap_err().to_string();
        assert!(why.contains(said) && !why.contains(OLD), "{why}");
    }
}

async fn a_seed_in_clear_is_refused_where_all_are_encrypted(database: TestDatabase) {
    const KEY: &str = "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=";
    let clock = Clock::system();
    replica(&database, &clock).await;
    let why = opened(&database, &clock, KEY).await.unwrap_err().to_string();
    assert!(why.contains("not encrypted") && why.contains("`none`"), "{why}");
}

on_both_databases!(
    keys_are_encrypted_and_their_key_replaced_without_a_token_lost,
    a_seed_in_clear_is_refused_where_all_are_encrypted,
    the_key_that_signed_a_token_is_published,
    a_key_is_published_before_it_signs_and_until_its_tokens_expire,
    concurrent_refreshes_add_one_key_and_all_replicas_sign_with_it,
    after_a_long_sleep_a_key_signs_at_once,
);
