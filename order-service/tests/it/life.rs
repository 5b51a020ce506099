//! The life of an order against a model: any commands in any order, while
//! payment-service loses its responses or not.

use mesh_proto::shop::{
    order::v1::{Order as Wire, OrderState},
    payment::v1::ChargeState,
    product::v1::ReservationState,
};
use order_service::{
    Error,
    carrier::Faults,
    commands::OrderCommand,
    domain::{Order, OrderId, PaymentMethod},
    saga::Sagas,
};
use proptest::{prelude::*, strategy::BoxedStrategy, test_runner::Config};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use service_kit::testing::TestDatabase;
use tokio::runtime::Runtime;

use crate::{
    crashes::create_order,
    fakes::{Behavior, CARD, FakeApp, snapshot},
};

const DECLINED: &str = "pm_card_declined";

/// A step on the order.
#[derive(Clone, Copy, Debug)]
enum Step {
    Pay,
    PayDeclined,
    Ship,
    Complete,
    Cancel,
    /// payment-service loses its responses from now on, or not.
    LoseResponses(bool),
}

/// The expected state of the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Model {
    state: OrderState,
    /// The last attempt to charge: declined or not.
    attempt: Option<bool>,
    /// True while a charge is not refunded.
    charged: bool,
    loses_responses: bool,
    /// The response to the last step.
    response: Response,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Response {
    Done,
    WrongState,
    Declined,
    Unknown,
}

impl Model {
    /// Ends the step in progress, unless payment-service loses responses.
    fn settled(mut self) -> Result<Self, Self> {
        let waits = matches!(self.state, OrderState::Paying | OrderState::Cancelling);
        if waits && self.loses_responses {
            self.response = Response::Unknown;
            return Err(self);
        }
        match self.state {
            OrderState::Paying if self.attempt == Some(true) => self.state = OrderState::Confirmed,
            OrderState::Paying => self.state = OrderState::Paid,
            OrderState::Cancelling => self.state = OrderState::Cancelled,
            _ => {}
        }
        Ok(self)
    }

    fn pay(mut self, declined: bool) -> Self {
        let attempt = self.attempt;
        if self.state == OrderState::Paying {
            self = match self.settled() {
                Ok(settled) => settled,
                Err(unknown) => return unknown,
            };
            if self.state == OrderState::Confirmed && attempt == Some(declined) {
                return Self { response: Response::Declined, ..self };
            }
        }
        match self.state {
            OrderState::Paid | OrderState::Shipped | OrderState::Completed => {
                return Self { response: Response::Done, ..self };
            }
            OrderState::Confirmed => {}
            _ => return Self { response: Response::WrongState, ..self },
        }
        self.attempt = Some(declined);
        self.charged = !declined;
        self.state = OrderState::Paying;
        match self.settled() {
            Err(unknown) => unknown,
            Ok(settled) => {
                Self { response: if declined { Response::Declined } else { Response::Done }, ..settled }
            }
        }
    }

    fn ship(mut self) -> Self {
        if self.state == OrderState::Paying {
            self = match self.settled() {
                Ok(settled) => settled,
                Err(unknown) => return unknown,
            };
        }
        match self.state {
            OrderState::Paid => Self { state: OrderState::Shipped, response: Response::Done, ..self },
            OrderState::Shipped | OrderState::Completed => Self { response: Response::Done, ..self },
            _ => Self { response: Response::WrongState, ..self },
        }
    }

    fn complete(self) -> Self {
        match self.state {
            OrderState::Shipped | OrderState::Completed => {
                Self { state: OrderState::Completed, response: Response::Done, ..self }
            }
            _ => Self { response: Response::WrongState, ..self },
        }
    }

    fn cancel(mut self) -> Self {
        match self.state {
            OrderState::Cancelled => return Self { response: Response::Done, ..self },
            OrderState::Shipped | OrderState::Completed => {
                return Self { response: Response::WrongState, ..self };
            }
            _ => {}
        }
        self.state = OrderState::Cancelling;
        // A refund whose answer is lost was made.
        self.charged = false;
        match self.settled() {
            Err(unknown) => unknown,
            Ok(settled) => Self { response: Response::Done, ..settled },
        }
    }
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        let response = Response::Done;
        Just(Self {
            state: OrderState::Confirmed,
            attempt: None,
            charged: false,
            loses_responses: false,
            response,
        })
        .boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Step> {
        prop_oneof![
            3 => Just(Step::Pay),
            2 => Just(Step::PayDeclined),
            2 => Just(Step::Ship),
            1 => Just(Step::Complete),
            1 => Just(Step::Cancel),
            2 => any::<bool>().prop_map(Step::LoseResponses),
        ]
        .boxed()
    }

    fn apply(state: Self, step: &Step) -> Self {
        match *step {
            Step::Pay => state.pay(false),
            Step::PayDeclined => state.pay(true),
            Step::Ship => state.ship(),
            Step::Complete => state.complete(),
            Step::Cancel => state.cancel(),
            Step::LoseResponses(loses_responses) => {
                Self { loses_responses, response: Response::Done, ..state }
            }
        }
    }
}

/// One order on a database of its own.
struct Life {
    runtime: Runtime,
    app: FakeApp,
    sagas: Sagas,
    id: OrderId,
}

impl Life {
    fn loses_responses(&self, loses_responses: bool) {
        for behavior in [&self.app.payments.charging, &self.app.payments.refunding] {
            behavior.set(if loses_responses { Behavior::LosesResponse } else { Behavior::Works });
        }
    }

    fn command(&self, command: &OrderCommand) -> Response {
        response(&self.runtime.block_on(async {
            let seen = snapshot(&self.sagas, self.id).await;
            command.execute(&self.sagas, seen).await
        }))
    }

    fn order(&self) -> Wire {
        self.runtime.block_on(self.sagas.store().get(self.id)).unwrap().into()
    }
}

fn response(result: &Result<Order, Error>) -> Response {
    match result {
        Ok(_) => Response::Done,
        Err(Error::WrongState(_)) => Response::WrongState,
        Err(Error::Declined) => Response::Declined,
        Err(Error::Dependency(_)) => Response::Unknown,
        Err(other) => panic!("{other:?}"),
    }
}

fn pay(method: &str) -> OrderCommand {
    OrderCommand::Pay(PaymentMethod::parse(method).unwrap())
}

impl StateMachineTest for Life {
    type SystemUnderTest = Self;
    type Reference = Model;

    fn init_test(_: &Model) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (app, sagas, id) = runtime.block_on(async {
            let app = FakeApp::spawn(TestDatabase::sqlite(), 0).await;
            let sagas = app.sagas(Faults::default()).await;
            let id = create_order(&app, &sagas, "ada").await;
            (app, sagas, id)
        });
        Self { runtime, app, sagas, id }
    }

    fn apply(life: Self, model: &Model, step: Step) -> Self {
        let response = match step {
            Step::Pay => life.command(&pay(CARD)),
            Step::PayDeclined => life.command(&pay(DECLINED)),
            Step::Ship => life.command(&OrderCommand::Ship),
            Step::Complete => life.command(&OrderCommand::Complete),
            Step::Cancel => life.command(&OrderCommand::Cancel),
            Step::LoseResponses(loses_responses) => {
                life.loses_responses(loses_responses);
                Response::Done
            }
        };
        assert_eq!(response, model.response, "{step:?}");
        life
    }

    fn check_invariants(life: &Self, model: &Model) {
        let (order, id) = (life.order(), life.id.to_string());
        assert_eq!(order.state(), model.state);
        let charged = life.app.payments.of(&id) == Some(ChargeState::Succeeded);
        assert_eq!(charged, model.charged, "{:?}", life.app.payments.of(&id));
        let returned = life.app.stock.of(&id) == Some(ReservationState::Released);
        // At once, whatever payment-service answers.
        assert_eq!(returned, matches!(model.state, OrderState::Cancelling | OrderState::Cancelled));
        assert_eq!(order.charge_id.is_empty(), order.charge_id != format!("charge of {id}"));
    }
}

prop_state_machine! {
    #![proptest_config(Config { cases: 24, failure_persistence: None, ..Config::default() })]

    #[test]
    fn an_order_lives_as_its_model_does(sequential 1..12 => Life);
}
