//! Every method, called by everybody.

use service_kit::{on_both_databases, testing::TestDatabase};
use tonic::Code;

use crate::{
    rows::{For, ROWS, Row},
    shop::{Who, outcome},
    stage::{ORDER, Stage, fill},
};

/// Who calls, as a row sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum As {
    Nobody,
    OtherCustomer,
    Owner,
    Staff,
    Admin,
    Service,
}

const ALL: [As; 6] = [As::Nobody, As::OtherCustomer, As::Owner, As::Staff, As::Admin, As::Service];

/// What a call is refused with; `None` when it is not.
fn refusal(row: &Row, caller: As) -> Option<(Code, &'static str)> {
    use As::{Admin, Nobody, OtherCustomer, Owner, Service, Staff};
    let role = Some((Code::PermissionDenied, "ROLE_MISSING"));
    let owner = Some((Code::PermissionDenied, "NOT_OWNER"));
    match (row.who, caller) {
        (For::Everybody, _) => None,
        (_, Nobody) => Some((Code::Unauthenticated, "TOKEN_MISSING")),
        (For::Owner | For::Account | For::Hidden, Service) => role,
        (For::OwnerOrService | For::StaffOrService | For::Service, Service) => None,
        (For::Service, _) | (_, Service) => role,
        (_, Admin) => None,
        (For::Admin, _) => role,
        (For::Staff | For::StaffOrService, OtherCustomer | Owner) => role,
        (For::Hidden, OtherCustomer) => Some((Code::NotFound, "ORDER_NOT_FOUND")),
        (_, OtherCustomer) | (For::Account, Staff) => owner,
        (_, Owner | Staff) => None,
    }
}

impl Stage {
    fn caller(&self, caller: As) -> Who {
        match caller {
            As::Nobody => Who::Nobody,
            As::OtherCustomer => self.bob.who(),
            As::Owner => self.ada.who(),
            As::Staff => self.staff(),
            As::Admin => self.admin(),
            As::Service => Who::Service(ORDER),
        }
    }
}

/// Every refused call comes first, and changes nothing; then every other one
/// is answered.
async fn whoever_may_not_call_a_method_is_refused_and_whoever_may_is_not(database: TestDatabase) {
    let stage = Stage::open(&database).await;
    let before = stage.all_of(&stage.ada).await;
    let mut refused = 0;
    for row in ROWS {
        for caller in ALL {
            let Some((code, reason)) = refusal(row, caller) else { continue };
            let answer = stage.shop.call(&stage.caller(caller), row.path, &(row.body)(&stage.ada)).await;
            assert_eq!(outcome(&answer), (code, reason.to_owned()), "{} by {caller:?}: {answer:?}", row.path);
            refused += 1;
        }
    }
    assert_eq!(stage.all_of(&stage.ada).await, before, "a refused call changed something");
    assert!(refused > 90, "{refused} calls were refused");

    for row in ROWS {
        for caller in ALL.into_iter().filter(|caller| refusal(row, *caller).is_none()) {
            if row.path.ends_with("/CreateOrder") || row.path.ends_with("/UpdateItem") {
                fill(&stage.shop, &stage.staff(), &stage.ada.person.id, &stage.ada.sku).await;
            }
            let answer = stage.shop.call(&stage.caller(caller), row.path, &(row.body)(&stage.ada)).await;
            let expected = match row.path.rsplit('/').next().unwrap() {
                // There is none.
                "RetryParkedEvent" => (Code::NotFound, "EVENT_NOT_FOUND"),
                // Who deletes their account is somebody no longer; the second
                // who does finds nothing to do. A refresh token is used once.
                "RefreshToken" if caller != As::Nobody => (Code::Unauthenticated, "REFRESH_TOKEN_INVALID"),
                _ => (Code::Ok, ""),
            };
            assert_eq!(outcome(&answer), (expected.0, expected.1.to_owned()), "{} by {caller:?}", row.path);
        }
    }
}

on_both_databases!(whoever_may_not_call_a_method_is_refused_and_whoever_may_is_not);
