//! The parsing of requests.

use mesh_proto::shop::user::v1::{LoginRequest, RegisterRequest, UpdateUserRequest};
use service_kit::{
    auth::Roles,
    error::{Fault, Fields, invalid},
    value::{CustomerId, Etag, InvalidValue},
};

use crate::domain::{Candidate, DisplayName, Email, Password, UserId, parse_roles};

/// The data of a new account.
pub(crate) struct Registration {
    pub(crate) email: Email,
    pub(crate) password: Password,
    pub(crate) display_name: DisplayName,
}

pub(crate) struct Credentials {
    pub(crate) email: Email,
    pub(crate) password: Candidate,
}

/// The new values of changed fields.
#[derive(Default)]
pub(crate) struct Changes {
    pub(crate) email: Option<Email>,
    pub(crate) display_name: Option<DisplayName>,
    pub(crate) roles: Option<Roles>,
    pub(crate) password: Option<Password>,
}

/// A change of an account.
pub(crate) struct Update {
    pub(crate) id: UserId,
    /// The version that the caller has seen.
    pub(crate) seen: Option<Etag>,
    pub(crate) changes: Changes,
    /// The current password, as given by the caller.
    pub(crate) current: Option<Candidate>,
}

pub(crate) fn user_id(text: &str) -> Result<UserId, Fault> {
    UserId::parse(text).map_err(|why| invalid("user_id", why))
}

pub(crate) fn customer_id(fields: &mut Fields, text: &str) -> Option<CustomerId> {
    fields.take("customer_id", CustomerId::parse(text))
}

impl TryFrom<RegisterRequest> for Registration {
    type Error = Fault;

    fn try_from(from: RegisterRequest) -> Result<Self, Fault> {
        let mut fields = Fields::default();
        let email = fields.take("email", Email::parse(&from.email));
        let password = fields.take("password", password_for(email.as_ref(), from.password));
        let name = match (&email, from.display_name.as_str()) {
            (Some(email), "") => Some(DisplayName::of(email)),
            (None, "") => None,
            (_, name) => fields.take("display_name", DisplayName::parse(name)),
        };
        let (Some(email), Some(password), Some(display_name)) = (email, password, name) else {
            return Err(fields.fault());
        };
        Ok(Self { email, password, display_name })
    }
}

fn password_for(email: Option<&Email>, password: String) -> Result<Password, InvalidValue> {
    let password = Password::parse(password)?;
    email.map_or(Ok(()), |email| password.suits(email))?;
    Ok(password)
}

impl TryFrom<LoginRequest> for Credentials {
    type Error = Fault;

    fn try_from(from: LoginRequest) -> Result<Self, Fault> {
        let mut fields = Fields::default();
        let email = fields.take("email", Email::parse(&from.email));
        let password = fields.take("password", Candidate::parse(from.password));
        let (Some(email), Some(password)) = (email, password) else { return Err(fields.fault()) };
        Ok(Self { email, password })
    }
}

impl TryFrom<UpdateUserRequest> for Update {
    type Error = Fault;

    fn try_from(from: UpdateUserRequest) -> Result<Self, Fault> {
        let UpdateUserRequest { user, password, current_password, update_mask } = from;
        let user = user.ok_or_else(|| invalid("user", "a user is required"))?;
        let mut fields = Fields::default();
        let id = fields.take("user.user_id", UserId::parse(&user.user_id));
        let seen = fields.take("user.etag", Etag::parse(&user.etag));
        let current = match current_password {
            none if none.is_empty() => Some(None),
            some => fields.take("current_password", Candidate::parse(some)).map(Some),
        };
        let paths = update_mask.unwrap_or_default().paths;
        if paths.is_empty() {
            fields.take::<(), _>("update_mask", Err("must name at least one field"));
        }
        let mut changes = Changes::default();
        let mut is_valid = true;
        let mut password = Some(password);
        for path in &paths {
            is_valid &= match path.as_str() {
                "display_name" => {
                    changes.display_name =
                        fields.take("user.display_name", DisplayName::parse(&user.display_name));
                    changes.display_name.is_some()
                }
                "email" => {
                    changes.email = fields.take("user.email", Email::parse(&user.email));
                    changes.email.is_some()
                }
                "roles" => {
                    changes.roles = fields.take("user.roles", parse_roles(&user.roles));
                    changes.roles.is_some()
                }
                // Parsed once, even if it is named twice.
                "password" => password.take().is_none_or(|text| {
                    changes.password = fields.take("password", Password::parse(text));
                    changes.password.is_some()
                }),
                _ => fields
                    .take::<(), _>("update_mask", Err("may name display_name, email, password and roles"))
                    .is_some(),
            };
        }
        let (Some(id), Some(seen), Some(current), true, false) =
            (id, seen, current, is_valid, paths.is_empty())
        else {
            return Err(fields.fault());
        };
        Ok(Self { id, seen, changes, current })
    }
}
