//! `Debug` of messages with a secret, which it hides, so that logged requests and
//! responses reveal none.

use std::fmt;

use crate::shop::{
    order::v1::PayOrderRequest,
    payment::v1::{Charge, ChargeRequest},
    user::v1::{LoginRequest, RefreshTokenRequest, RegisterRequest, Tokens, UpdateUserRequest},
};

/// A placeholder of a secret; an empty secret is shown as empty.
struct Hidden<'a>(&'a str);

impl fmt::Debug for Hidden<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { "\"…\"" })
    }
}

/// Every field stands in one of the two lists: another one does not compile.
macro_rules! shown {
    ($($message:ident { $($field:ident),* } hiding { $($secret:ident),* })+) => {
        $(impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let Self { $($field,)* $($secret,)* } = self;
                f.debug_struct(stringify!($message))
                    $(.field(stringify!($field), $field))*
                    $(.field(stringify!($secret), &Hidden($secret)))*
                    .finish()
            }
        })+
    };
}

shown! {
    RegisterRequest { email, display_name } hiding { password }
    LoginRequest { email } hiding { password }
    RefreshTokenRequest {} hiding { refresh_token }
    Tokens { expire_time, user } hiding { access_token, refresh_token }
    UpdateUserRequest { user, update_mask } hiding { password, current_password }
    PayOrderRequest { order_id } hiding { payment_method }
    ChargeRequest { idempotency_key, customer_id, amount, fencing_token } hiding { payment_method }
    Charge {
        charge_id, idempotency_key, state, customer_id, amount, create_time, update_time
    } hiding { payment_method }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shop::user::v1::User;

    const SECRET: &str = "canary-5512";

    /// Their `Debug` shows everything but the secret.
    #[test]
    fn a_secret_is_not_shown_and_the_rest_is() {
        let secret = || SECRET.to_owned();
        let user = User { email: "ada@shop.example".into(), ..User::default() };
        let all: [(&dyn fmt::Debug, &str); 8] = [
            (&RegisterRequest { password: secret(), email: "ada@".into(), ..Default::default() }, "ada@"),
            (&LoginRequest { password: secret(), email: "ada@".into() }, "ada@"),
            (&RefreshTokenRequest { refresh_token: secret() }, "refresh_token"),
            (
                &Tokens {
                    access_token: secret(),
                    refresh_token: secret(),
                    user: Some(user.clone()),
                    expire_time: None,
                },
                "ada@shop.example",
            ),
            (
                &UpdateUserRequest {
                    password: secret(),
                    current_password: secret(),
                    user: Some(user),
                    update_mask: None,
                },
                "ada@shop.example",
            ),
            (&PayOrderRequest { order_id: "o-1".into(), payment_method: secret() }, "o-1"),
            (
                &ChargeRequest { customer_id: "ada".into(), payment_method: secret(), ..Default::default() },
                "ada",
            ),
            (&Charge { customer_id: "ada".into(), payment_method: secret(), ..Default::default() }, "ada"),
        ];
        for (message, public) in all {
            for shown in [format!("{message:?}"), format!("{message:#?}")] {
                assert!(!shown.contains(SECRET) && shown.contains('…') && shown.contains(public), "{shown}");
            }
        }
    }
}
