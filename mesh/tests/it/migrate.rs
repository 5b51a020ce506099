//! `mesh migrate`.

use cart_service::CartService;
use service_kit::{database::Database, service::Service as _};

use crate::running::{State, run};

#[test]
fn databases_are_looked_at_without_change_then_brought_up_to_date() {
    let state = State::new();
    let file = state.dir().join("data/cart.db");
    let (code, out, err) = run(state.command(["migrate", "--check"]));
    assert_eq!(code, 1, "{out}{err}");
    assert!(!file.exists() && out.contains("at version 0"), "{out}");

    let (code, out, err) = run(state.command(["migrate", "cart-service"]));
    assert_eq!(code, 0, "{out}{err}");
    assert!(file.exists() && out.starts_with("cart-service: ") && out.contains("from version 0"), "{out}");

    let (code, out, _) = run(state.command(["migrate", "--check", "cart-service"]));
    assert!(code == 0 && out.contains("up to date"), "{out}");
    let (code, out, _) = run(state.command(["migrate", "cart-service"]));
    assert!(code == 0 && out.contains("nothing to do"), "{out}");
    let (code, out, _) = run(state.command(["migrate", "--check"]));
    assert_eq!(code, 1, "the others are still to be made: {out}");
}

#[tokio::test]
async fn a_database_of_a_newer_program_is_refused_and_left_as_it_is() {
    let state = State::new();
    let (code, out, err) = run(state.command(["migrate", "cart-service"]));
    assert_eq!(code, 0, "{out}{err}");
    let url = format!("sqlite:{}", state.dir().join("data/cart.db").display()).parse().unwrap();
    let database = Database::open(&url, &CartService::MIGRATIONS).await.unwrap();
    let mut open = database.begin().await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (99, 'later', 1, x'00', 0)";
    open.execute(newer, &[]).await.unwrap();
    open.commit().await.unwrap();
    database.close().await;

    for command in
        [state.command(["migrate", "cart-service"]), state.command(["migrate", "--check", "cart-service"])]
    {
        let (code, out, err) = run(command);
        assert_eq!(code, 2, "{out}{err}");
        assert!(err.contains("version 99") && err.contains("newer"), "{err}");
    }
    let version = Database::version(&url, &CartService::MIGRATIONS).await.unwrap();
    assert_eq!(version.current, 99);
}
