//! No token but a good one is believed.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::Ed25519KeyPair;
use serde_json::json;
use service_kit::testing::refused;
use tonic::{
    Code,
    metadata::{Ascii, MetadataValue},
};

use super::{
    behind::{Behind, NAME},
    forge::{Forge, SUBJECT, changed, encode, now, sign},
};

/// For everybody with an account.
const FOR_USERS: &str = "/shop.order.v1.OrderService/GetOrder";
/// For services alone.
const FOR_SERVICES: &str = "/shop.payment.v1.PaymentService/Charge";

const MISSING: &str = "TOKEN_MISSING";
const INVALID: &str = "TOKEN_INVALID";
const EXPIRED: &str = "TOKEN_EXPIRED";

/// The name, the token, and the expected reason.
type Case = (&'static str, Vec<MetadataValue<Ascii>>, &'static str);

fn raw(text: impl AsRef<[u8]>) -> Vec<MetadataValue<Ascii>> {
    vec![MetadataValue::try_from(text.as_ref()).unwrap()]
}

fn bearer(token: impl AsRef<str>) -> Vec<MetadataValue<Ascii>> {
    raw(format!("Bearer {}", token.as_ref()))
}

fn headers(forge: &Forge) -> Vec<Case> {
    let good = forge.good();
    vec![
        ("nothing", vec![], MISSING),
        ("an empty value", raw(""), INVALID),
        ("another scheme", raw("Basic YWRhOmh1bnRlcjI="), INVALID),
        ("no scheme", raw(&good), INVALID),
        ("a scheme alone", raw("Bearer"), INVALID),
        ("an empty token", raw("Bearer "), INVALID),
        ("a scheme that only begins so", raw(format!("Bearerx {good}")), INVALID),
        ("two spaces", raw(format!("Bearer  {good}")), INVALID),
        ("a tab", raw(format!("Bearer\t{good}")), INVALID),
        ("two in one", raw(format!("Bearer {good},Bearer {good}")), INVALID),
        ("something after it", raw(format!("Bearer {good} x")), INVALID),
        ("what is not ASCII", raw(b"Bearer \xc3\xa4.b.c"), INVALID),
        ("two good ones", [bearer(&good), bearer(&good)].concat(), INVALID),
        ("a good one after a bad one", [bearer("a.b.c"), bearer(&good)].concat(), INVALID),
        ("a good one before a bad one", [bearer(&good), raw("Basic x")].concat(), INVALID),
    ]
}

fn shapes(forge: &Forge) -> Vec<Case> {
    let good = forge.good();
    let parts: Vec<_> = good.split('.').collect();
    let [head, claims, signature] = parts[..] else { panic!("a token has three parts") };
    // The last of 86 characters holds four bits that count and two that do not.
    let last = signature.chars().last().unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let next = alphabet.chars().nth(alphabet.find(last).unwrap() + 1).unwrap();
    let loose = format!("{head}.{claims}.{}{next}", &signature[..85]);
    let long = forge.claiming(&json!({ "more": "x".repeat(8 * 1024) }));
    vec![
        ("no dots", bearer("abc"), INVALID),
        ("two parts", bearer(format!("{head}.{claims}")), INVALID),
        ("four parts", bearer(format!("{good}.{signature}")), INVALID),
        ("five parts, as if encrypted", bearer(format!("{good}.a.b")), INVALID),
        ("empty parts", bearer(".."), INVALID),
        ("an empty header", bearer(format!(".{claims}.{signature}")), INVALID),
        ("no claims", bearer(format!("{head}..{signature}")), INVALID),
        ("no signature", bearer(format!("{head}.{claims}.")), INVALID),
        ("padding", bearer(format!("{good}==")), INVALID),
        ("bits left over", bearer(loose), INVALID),
        ("the other base64", bearer(format!("{head}.{claims}.+/{}", &signature[2..])), INVALID),
        ("a space inside", bearer(format!("{head}. {claims}.{signature}")), INVALID),
        ("more than 8 KiB", bearer(long), INVALID),
        ("a header that is no JSON", bearer(sign("{", "{}", &forge.users)), INVALID),
        ("a header that is a list", bearer(sign(r#"["EdDSA"]"#, "{}", &forge.users)), INVALID),
        ("claims that are no JSON", bearer(sign(&forge.header().to_string(), "{", &forge.users)), INVALID),
        ("claims that are a list", bearer(sign(&forge.header().to_string(), "[]", &forge.users)), INVALID),
        (
            "claims and more",
            bearer(sign(&forge.header().to_string(), &format!("{}{{}}", forge.claims()), &forge.users)),
            INVALID,
        ),
    ]
}

fn algorithms(forge: &Forge) -> Vec<Case> {
    let unsigned = |alg: &str| {
        let header = changed(forge.header(), &json!({ "alg": alg })).to_string();
        format!("{}.{}.", encode(header), encode(forge.claims().to_string()))
    };
    let headed = |changes| bearer(forge.headed(&changes));
    vec![
        ("none, unsigned", bearer(unsigned("none")), INVALID),
        ("None, unsigned", bearer(unsigned("None")), INVALID),
        ("nOnE, unsigned", bearer(unsigned("nOnE")), INVALID),
        ("an empty alg, unsigned", bearer(unsigned("")), INVALID),
        ("EdDSA, unsigned", bearer(unsigned("EdDSA")), INVALID),
        ("none, signed", headed(json!({ "alg": "none" })), INVALID),
        ("HS256 with the public key", bearer(forge.hmac(forge.public())), INVALID),
        ("HS256 with the public key as text", bearer(forge.hmac(encode(forge.public()).as_bytes())), INVALID),
        ("HS256 with the kid", bearer(forge.hmac(forge.kid.as_bytes())), INVALID),
        ("HS256 with nothing", bearer(forge.hmac(b"")), INVALID),
        ("HS256 on a good signature", headed(json!({ "alg": "HS256" })), INVALID),
        ("ES256", headed(json!({ "alg": "ES256" })), INVALID),
        ("RS256", headed(json!({ "alg": "RS256" })), INVALID),
        ("PS512", headed(json!({ "alg": "PS512" })), INVALID),
        ("the name in another case", headed(json!({ "alg": "eddsa" })), INVALID),
        ("no alg", headed(json!({ "alg": null })), INVALID),
        ("an alg that is no text", headed(json!({ "alg": ["EdDSA"] })), INVALID),
    ]
}

fn keys(forge: &Forge) -> Vec<Case> {
    let headed = |changes| bearer(forge.headed(&changes));
    let other = Ed25519KeyPair::from_seed_unchecked(&[3; 32]).unwrap();
    let (header, claims) = (forge.header().to_string(), forge.claims().to_string());
    let twice = |member: &str| format!("{{{member},{}", &header[1..]);
    let own_key = json!({ "kty": "OKP", "crv": "Ed25519", "x": encode([9; 32]) });
    vec![
        ("another key under this kid", bearer(sign(&header, &claims, &other)), INVALID),
        ("the services' key under this kid", bearer(sign(&header, &claims, &forge.services)), INVALID),
        ("the services' kid", headed(json!({ "kid": forge.services_kid })), INVALID),
        ("no kid", headed(json!({ "kid": null })), INVALID),
        ("an empty kid", headed(json!({ "kid": "" })), INVALID),
        ("an unknown kid", headed(json!({ "kid": "unknown" })), INVALID),
        ("a kid that is a path", headed(json!({ "kid": "../../../dev/null" })), INVALID),
        ("a kid that is SQL", headed(json!({ "kid": "x' UNION SELECT 'a' --" })), INVALID),
        ("a kid that is no text", headed(json!({ "kid": 1 })), INVALID),
        ("jku", headed(json!({ "jku": "https://evil.example/jwks" })), INVALID),
        ("x5u", headed(json!({ "x5u": "https://evil.example/cert" })), INVALID),
        ("x5c", headed(json!({ "x5c": ["MIIB"] })), INVALID),
        ("a key of its own", headed(json!({ "jwk": own_key })), INVALID),
        ("crit", headed(json!({ "crit": ["exp"] })), INVALID),
        ("b64", headed(json!({ "b64": false, "crit": ["b64"] })), INVALID),
        ("zip", headed(json!({ "zip": "DEF" })), INVALID),
        ("cty", headed(json!({ "cty": "JWT" })), INVALID),
        ("no typ", headed(json!({ "typ": null })), INVALID),
        ("another typ", headed(json!({ "typ": "JWT" })), INVALID),
        ("alg twice", bearer(sign(&twice(r#""alg":"none""#), &claims, &forge.users)), INVALID),
        ("kid twice", bearer(sign(&twice(r#""kid":"x""#), &claims, &forge.users)), INVALID),
    ]
}

fn signatures(forge: &Forge) -> Vec<Case> {
    let good = forge.good();
    let (message, signature) = good.rsplit_once('.').unwrap();
    let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        bearer(format!("{message}.{}", encode(bytes)))
    };
    let head = encode(forge.header().to_string());
    let admin = encode(changed(forge.claims(), &json!({ "roles": ["admin"] })).to_string());
    vec![
        ("a bit of R turned", with(&|bytes| bytes[0] ^= 1), INVALID),
        ("a bit of S turned", with(&|bytes| bytes[40] ^= 1), INVALID),
        ("S plus the order of the group", with(&|bytes| add_order(bytes)), INVALID),
        ("a signature of zeros", with(&|bytes| bytes.fill(0)), INVALID),
        (
            "a neutral R and an S of zero",
            with(&|bytes| {
                bytes.fill(0);
                bytes[0] = 1;
            }),
            INVALID,
        ),
        ("a short signature", with(&|bytes| bytes.truncate(63)), INVALID),
        ("a long signature", with(&|bytes| bytes.push(0)), INVALID),
        ("other claims under a good signature", bearer(format!("{head}.{admin}.{signature}")), INVALID),
    ]
}

/// S' = S + L verifies too where S is not bounded.
fn add_order(bytes: &mut [u8]) {
    const ORDER: [u8; 32] = *b"\xed\xd3\xf5\x5c\x1a\x63\x12\x58\xd6\x9c\xf7\xa2\xde\xf9\xde\x14\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x10";
    let mut carry = 0;
    for (byte, order) in bytes[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        *byte = u8::try_from(sum & 0xff).unwrap();
        carry = sum >> 8;
    }
}

fn times(forge: &Forge) -> Vec<Case> {
    let claiming = |changes| bearer(forge.claiming(&changes));
    let now = now();
    vec![
        ("expired", claiming(json!({ "exp": now - 31, "iat": now - 900, "nbf": now - 900 })), EXPIRED),
        ("expired for long", claiming(json!({ "exp": 1 , "iat": 1, "nbf": 1 })), EXPIRED),
        ("an exp of zero", claiming(json!({ "exp": 0, "iat": 0, "nbf": 0 })), EXPIRED),
        ("an exp too far ahead", claiming(json!({ "exp": now + 3_700 })), INVALID),
        ("an exp never reached", claiming(json!({ "exp": u64::MAX })), INVALID),
        ("an exp beyond 64 bits", claiming(json!({ "exp": 1e30 })), INVALID),
        ("a life of more than an hour", claiming(json!({ "exp": now + 600, "iat": now - 3_100 })), INVALID),
        ("an nbf ahead", claiming(json!({ "nbf": now + 40 })), INVALID),
        ("an iat ahead", claiming(json!({ "iat": now + 40 })), INVALID),
        ("an exp before its iat", claiming(json!({ "exp": now - 10, "iat": now })), INVALID),
        ("an exp that is text", claiming(json!({ "exp": (now + 900).to_string() })), INVALID),
        ("an exp that is broken", claiming(json!({ "exp": 1.5 })), INVALID),
        ("an exp below zero", claiming(json!({ "exp": -1 })), INVALID),
        ("an nbf that is text", claiming(json!({ "nbf": "0" })), INVALID),
        ("an iat that is text", claiming(json!({ "iat": "0" })), INVALID),
        (
            "an expired token of a service",
            bearer(forge.service(&json!({ "exp": now - 40, "iat": now - 100 }))),
            EXPIRED,
        ),
    ]
}

fn claims(forge: &Forge) -> Vec<Case> {
    let claiming = |changes| bearer(forge.claiming(&changes));
    let service = |changes| bearer(forge.service(&changes));
    let mut cases = vec![
        ("another issuer", claiming(json!({ "iss": "evil" })), INVALID),
        ("the services' issuer", claiming(json!({ "iss": "services" })), INVALID),
        ("issuers", claiming(json!({ "iss": ["user-service"] })), INVALID),
        ("another audience", claiming(json!({ "aud": "bank" })), INVALID),
        ("audiences", claiming(json!({ "aud": ["shop", "bank"] })), INVALID),
        ("an empty sub", claiming(json!({ "sub": "" })), INVALID),
        ("a sub that is too long", claiming(json!({ "sub": "x".repeat(129) })), INVALID),
        ("a sub of two lines", claiming(json!({ "sub": "ada\nroot" })), INVALID),
        ("a sub that is no text", claiming(json!({ "sub": 7 })), INVALID),
        ("no roles at all", claiming(json!({ "roles": [] })), INVALID),
        ("an unknown role", claiming(json!({ "roles": ["root"] })), INVALID),
        ("an unknown role besides", claiming(json!({ "roles": ["customer", "root"] })), INVALID),
        ("a role in another case", claiming(json!({ "roles": ["Admin"] })), INVALID),
        ("a user as a service", claiming(json!({ "roles": ["service"] })), INVALID),
        ("a role that is no list", claiming(json!({ "roles": "admin" })), INVALID),
        ("a role that is no text", claiming(json!({ "roles": [3] })), INVALID),
        ("a jti that is no id", claiming(json!({ "jti": "1" })), INVALID),
        ("a service as a user", service(json!({ "iss": "user-service" })), INVALID),
        ("a service as an admin", service(json!({ "roles": ["admin"] })), INVALID),
        ("a service with another role", service(json!({ "roles": ["service", "admin"] })), INVALID),
        ("a service without a name", service(json!({ "sub": "" })), INVALID),
        ("a service with no service's name", service(json!({ "sub": "a/b c" })), INVALID),
    ];
    let names = ["iss", "aud", "sub", "roles", "iat", "nbf", "exp", "jti"];
    let whole = forge.claims().to_string();
    for name in names {
        cases.push(("without a claim", claiming(json!({ name: null })), INVALID));
        let null = whole.replacen('{', &format!(r#"{{"{name}":null,"#), 1);
        cases.push((
            "a claim twice",
            bearer(sign(&forge.header().to_string(), &null, &forge.users)),
            INVALID,
        ));
        let value = &forge.claims()[name];
        let same = whole.replacen('{', &format!(r#"{{"{name}":{value},"#), 1);
        cases.push((
            "a claim twice alike",
            bearer(sign(&forge.header().to_string(), &same, &forge.users)),
            INVALID,
        ));
    }
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_bad_token_is_accepted_and_each_is_refused_with_its_reason() {
    let behind = Behind::spawn().await;
    let forge = Forge::of(&behind.callers);
    let groups = [headers, shapes, algorithms, keys, signatures, times, claims];
    let cases: Vec<Case> = groups.iter().flat_map(|group| group(&forge)).collect();
    assert!(cases.len() >= 120, "{} kinds", cases.len());
    for path in [FOR_USERS, FOR_SERVICES] {
        for (what, headers, reason) in &cases {
            let answer = behind.with_headers(path, headers).await;
            let answer = answer.map_err(|status| {
                let said = format!("{status:?}");
                assert!(!said.contains(SUBJECT), "{what}: {said}");
                let value = headers.first().map_or("", |value| value.to_str().unwrap_or_default());
                let is_shown = value.split(['.', ' ']).any(|part| part.len() > 12 && said.contains(part));
                assert!(!is_shown, "{what}: {said}");
                assert!(status.message().len() > 20, "{what}: {said}");
                status
            });
            refused(NAME, answer, Code::Unauthenticated, reason);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_token_is_accepted_again_and_again() {
    let behind = Behind::spawn().await;
    let forge = Forge::of(&behind.callers);
    let (now, user) = (now(), format!("user:{SUBJECT}"));
    let good = [
        forge.good(),
        forge.claiming(&json!({ "exp": now - 20, "iat": now - 100, "nbf": now - 100 })),
        forge.claiming(&json!({ "nbf": now + 20, "iat": now + 20 })),
        forge.claiming(&json!({ "roles": ["customer", "staff", "admin"] })),
        forge.claiming(&json!({ "name": "a claim of later days" })),
    ];
    for token in &good {
        for _ in 0..3 {
            assert_eq!(behind.with_token(FOR_USERS, token).await.unwrap(), user);
        }
    }
    let lower = raw(format!("bearer {}", good[0]));
    assert_eq!(behind.with_headers(FOR_USERS, &lower).await.unwrap(), user);
    let service = forge.service(&json!({}));
    assert_eq!(behind.with_token(FOR_SERVICES, &service).await.unwrap(), "service:order-service");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_with_any_character_changed_is_refused() {
    let behind = Behind::spawn().await;
    let good = Forge::of(&behind.callers).good();
    behind.with_token(FOR_USERS, &good).await.unwrap();
    for (at, was) in good.char_indices() {
        let other = if was == 'A' { 'B' } else { 'A' };
        let token = format!("{}{other}{}", &good[..at], &good[at + 1..]);
        let answer = behind.with_token(FOR_USERS, &token).await;
        refused(NAME, answer, Code::Unauthenticated, INVALID);
    }
    for end in 0..good.len() {
        let answer = behind.with_token(FOR_USERS, &good[..end]).await;
        refused(NAME, answer, Code::Unauthenticated, INVALID);
    }
}

#[tokio::test]
async fn a_token_that_was_believed_is_not_once_it_has_expired() {
    let behind = Behind::spawn().await;
    let forge = Forge::of(&behind.callers);
    let now = now();
    // Expires in two seconds, with the 30 s that clocks may differ by.
    let token = forge.claiming(&json!({ "exp": now - 28, "iat": now - 100, "nbf": now - 100 }));
    behind.with_token(FOR_USERS, &token).await.unwrap();
    let refusal = loop {
        if let Err(refusal) = behind.with_token(FOR_USERS, &token).await {
            break refusal;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    refused::<()>(NAME, Err(refusal), Code::Unauthenticated, EXPIRED);
}
