//! Every method, called by every kind of caller.

use service_kit::{on_both_databases, testing::TestDatabase};
use tonic::Code;

use crate::{
    rows::{AllowedCallers, ROWS, Row},
    shop::{Caller, outcome},
    stage::{ORDER, Stage, fill},
};

/// The kinds of callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CallerKind {
    Nobody,
    OtherCustomer,
    Owner,
    Staff,
    Admin,
    Service,
}

const ALL_KINDS: [CallerKind; 6] = [
    CallerKind::Nobody,
    CallerKind::OtherCustomer,
    CallerKind::Owner,
    CallerKind::Staff,
    CallerKind::Admin,
    CallerKind::Service,
];

/// The expected code and reason of a rejected call; `None` when it is accepted.
fn expected_rejection(row: &Row, caller: CallerKind) -> Option<(Code, &'static str)> {
    use CallerKind::{Admin, Nobody, OtherCustomer, Owner, Service, Staff};
    let role = Some((Code::PermissionDenied, "ROLE_MISSING"));
    let owner = Some((Code::PermissionDenied, "NOT_OWNER"));
    match (row.allowed, caller) {
        (AllowedCallers::Everybody, _) => None,
        (_, Nobody) => Some((Code::Unauthenticated, "TOKEN_MISSING")),
        (AllowedCallers::Owner | AllowedCallers::Account | AllowedCallers::Hidden, Service) => role,
        (
            AllowedCallers::OwnerOrService | AllowedCallers::StaffOrService | AllowedCallers::Service,
            Service,
        ) => None,
        (AllowedCallers::Service, _) | (_, Service) => role,
        (_, Admin) => None,
        (AllowedCallers::Admin, _) => role,
        (AllowedCallers::Staff | AllowedCallers::StaffOrService, OtherCustomer | Owner) => role,
        (AllowedCallers::Hidden, OtherCustomer) => Some((Code::NotFound, "ORDER_NOT_FOUND")),
        (_, OtherCustomer) | (AllowedCallers::Account, Staff) => owner,
        (_, Owner | Staff) => None,
    }
}

impl Stage {
    fn caller(&self, caller: CallerKind) -> Caller {
        match caller {
            CallerKind::Nobody => Caller::Nobody,
            CallerKind::OtherCustomer => self.bob.who(),
            CallerKind::Owner => self.ada.who(),
            CallerKind::Staff => self.staff(),
            CallerKind::Admin => self.admin(),
            CallerKind::Service => Caller::Service(ORDER),
        }
    }
}

/// Makes every call that is rejected, which changes nothing, and then every
/// other one.
async fn whoever_may_not_call_a_method_is_refused_and_whoever_may_is_not(database: TestDatabase) {
    let stage = Stage::open(&database).await;
    let before = stage.all_of(&stage.ada).await;
    let mut refused = 0;
    for row in ROWS {
        for caller in ALL_KINDS {
            let Some((code, reason)) = expected_rejection(row, caller) else { continue };
            let response = stage.shop.call(&stage.caller(caller), row.path, &(row.body)(&stage.ada)).await;
            assert_eq!(
                outcome(&response),
                (code, reason.to_owned()),
                "{} by {caller:?}: {response:?}",
                row.path
            );
            refused += 1;
        }
    }
    assert_eq!(stage.all_of(&stage.ada).await, before, "a refused call changed something");
    assert!(refused > 90, "{refused} calls were refused");

    for row in ROWS {
        for caller in ALL_KINDS.into_iter().filter(|caller| expected_rejection(row, *caller).is_none()) {
            if row.path.ends_with("/CreateOrder") || row.path.ends_with("/UpdateItem") {
                fill(&stage.shop, &stage.staff(), &stage.ada.person.id, &stage.ada.sku).await;
            }
            let response = stage.shop.call(&stage.caller(caller), row.path, &(row.body)(&stage.ada)).await;
            let expected = match row.path.rsplit('/').next().unwrap() {
                // No event is parked.
                "RetryParkedEvent" => (Code::NotFound, "EVENT_NOT_FOUND"),
                // A second deletion of an account succeeds and changes nothing.
                // A refresh token works once.
                "RefreshToken" if caller != CallerKind::Nobody => {
                    (Code::Unauthenticated, "REFRESH_TOKEN_INVALID")
                }
                _ => (Code::Ok, ""),
            };
            assert_eq!(outcome(&response), (expected.0, expected.1.to_owned()), "{} by {caller:?}", row.path);
        }
    }
}

on_both_databases!(whoever_may_not_call_a_method_is_refused_and_whoever_may_is_not);
