use super::*;

fn sku(text: &str) -> Sku {
    Sku::parse(text).unwrap()
}

fn pieces(number: u16) -> Quantity {
    Quantity::parse(number).unwrap()
}

fn currency(code: &str) -> Currency {
    code.parse().unwrap()
}

fn money(minor: i64, code: &str) -> Money {
    Money::new(minor, currency(code)).unwrap()
}

fn line(text: &str, number: u16) -> Line {
    Line {
        sku: sku(text),
        quantity: pieces(number),
        currency: currency("EUR"),
        price: Some(money(499, "EUR")),
    }
}

fn cart(lines: impl IntoIterator<Item = Line>) -> Cart {
    let customer = CustomerId::parse("ada").unwrap();
    Cart { lines: lines.into_iter().collect(), etag: Etag::of(5), ..Cart::empty(customer) }
}

fn add(cart: &Cart, text: &str, number: u16) -> Result<Option<Change>, Rejection> {
    cart.add(sku(text), pieces(number), money(499, "EUR"))
}

#[test]
fn added_pieces_add_up() {
    assert_eq!(add(&cart([]), "tea", 3), Ok(Some(Change::Put(line("tea", 3)))));
    assert_eq!(add(&cart([line("tea", 3)]), "tea", 4), Ok(Some(Change::Put(line("tea", 7)))));
}

#[test]
fn a_line_holds_999_pieces_and_no_more() {
    let held = cart([line("tea", 998)]);
    assert_eq!(add(&held, "tea", 1), Ok(Some(Change::Put(line("tea", 999)))));
    assert_eq!(add(&held, "tea", 2), Err(Rejection::TooMany { sku: sku("tea"), held: 998, more: 2 }));
}

#[test]
fn a_cart_holds_100_lines_and_no_more() {
    let full = cart((0..MAX_LINES).map(|n| line(&format!("p-{n}"), 1)));
    assert_eq!(add(&full, "tea", 1), Err(Rejection::Full));
    assert!(add(&full, "p-0", 1).is_ok());
}

#[test]
fn a_cart_has_one_currency_until_it_is_empty() {
    let mixed = Rejection::Mixed { sku: sku("mug"), held: currency("EUR"), other: currency("USD") };
    let dollars = |cart: &Cart| cart.add(sku("mug"), pieces(1), money(1, "USD"));
    assert_eq!(dollars(&cart([line("tea", 1)])), Err(mixed));
    assert!(dollars(&cart([])).is_ok());
}

#[test]
fn a_change_without_effect_is_none() {
    let cart = cart([line("tea", 3)]);
    let price = Some(money(499, "EUR"));
    assert_eq!(cart.set(&sku("tea"), pieces(3), price), Ok(None));
    assert_eq!(cart.set(&sku("tea"), pieces(4), price), Ok(Some(Change::Put(line("tea", 4)))));
    assert_eq!(cart.set(&sku("mug"), pieces(4), price), Err(Rejection::NotInCart(sku("mug"))));
    assert_eq!(cart.remove(&sku("mug")), None);
    assert_eq!(cart.remove(&sku("tea")), Some(Change::Remove(sku("tea"))));
    assert_eq!(cart.clear(), Some(Change::Clear));
    let empty = Cart { lines: Vec::new(), ..cart };
    assert_eq!(empty.clear(), None);
}

#[test]
fn a_change_keeps_the_order_of_lines_and_raises_the_version() {
    let now = Timestamp::of_micros(7);
    let before = cart([line("tea", 1), line("mug", 1)]);
    let after = before.changed(&Change::Put(line("tea", 2)), now);
    assert_eq!(after.lines, [line("tea", 2), line("mug", 1)]);
    assert_eq!((after.etag, after.updated), (Etag::of(6), Some(now)));
    let after = after.changed(&Change::Put(line("jug", 1)), now).changed(&Change::Remove(sku("tea")), now);
    assert_eq!(after.lines, [line("mug", 1), line("jug", 1)]);
    assert!(after.changed(&Change::Clear, now).lines.is_empty());
}

#[test]
fn a_clock_set_back_does_not_set_back_the_update_time() {
    let later = Some(Timestamp::of_micros(9));
    let cart = Cart { updated: later, ..cart([line("tea", 1)]) };
    assert_eq!(cart.changed(&Change::Clear, Timestamp::of_micros(1)).updated, later);
}

#[test]
fn an_outdated_version_is_refused_unless_the_change_was_made_already() {
    let cart = cart([line("tea", 3)]);
    let seen = |version| Some(Etag::of(version));
    let price = Some(money(499, "EUR"));
    let set = |seen, number| cart.decide(seen, |cart| cart.set(&sku("tea"), pieces(number), price));
    for current in [None, seen(5)] {
        assert!(set(current, 4).unwrap().is_some());
        assert_eq!(set(current, 3), Ok(None));
    }
    // Version 5 is what version 4 became by this very request, sent before.
    assert_eq!(set(seen(4), 3), Ok(None));
    assert_eq!(set(seen(4), 4), Err(Rejection::Changed));
    assert_eq!(set(seen(3), 3), Err(Rejection::Changed));
    assert_eq!(set(seen(6), 3), Err(Rejection::Changed));
    assert_eq!(cart.decide(seen(4), |cart| add(cart, "tea", 1)), Err(Rejection::Changed));
    assert_eq!(cart.decide(seen(4), |cart| cart.set(&sku("mug"), pieces(1), price)), Err(Rejection::Changed));
}

#[test]
fn adding_and_setting_store_the_current_price() {
    let held = cart([line("tea", 3)]);
    let dearer = |number| Line { price: Some(money(599, "EUR")), ..line("tea", number) };
    let today = Some(money(599, "EUR"));
    assert_eq!(held.set(&sku("tea"), pieces(5), today), Ok(Some(Change::Put(dearer(5)))));
    assert_eq!(
        held.set(&sku("tea"), pieces(3), today),
        Ok(Some(Change::Put(dearer(3)))),
        "seen and agreed to"
    );
    assert_eq!(held.add(sku("tea"), pieces(1), money(599, "EUR")), Ok(Some(Change::Put(dearer(4)))));
    // One that is withdrawn costs nothing today; what it did cost is kept.
    assert_eq!(held.set(&sku("tea"), pieces(5), None), Ok(Some(Change::Put(line("tea", 5)))));
}

#[test]
fn a_repeated_request_succeeds_also_when_the_price_changed() {
    let cart = cart([line("tea", 3)]);
    let set = |seen| {
        let today = Some(money(599, "EUR"));
        cart.decide(Some(Etag::of(seen)), |cart| cart.set(&sku("tea"), pieces(3), today))
    };
    assert_eq!(set(4), Ok(None));
    assert_eq!(set(3), Err(Rejection::Changed));
    assert!(set(5).unwrap().is_some());
}
