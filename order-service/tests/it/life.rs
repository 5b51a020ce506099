//! The life of an order against a model of it: whatever is asked, in whichever
//! order, while payment-service loses its answers or not.

use mesh_proto::shop::{
    order::v1::{Order as Wire, OrderState},
    payment::v1::ChargeState,
    product::v1::ReservationState,
};
use order_service::{
    Error,
    acts::Act,
    carrier::Faults,
    domain::{Order, OrderId, PaymentMethod},
    saga::Sagas,
};
use proptest::{prelude::*, strategy::BoxedStrategy, test_runner::Config};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use service_kit::testing::TestDatabase;
use tokio::runtime::Runtime;

use crate::{
    crashes::made,
    played::{CARD, Mood, PlayedApp, seen},
};

const DECLINED: &str = "pm_card_declined";

/// What may be done to the one order.
#[derive(Clone, Copy, Debug)]
enum Step {
    Pay,
    PayDeclined,
    Ship,
    Complete,
    Cancel,
    /// payment-service does what it is asked, and says so from now on, or not.
    Mute(bool),
}

/// What the order should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Model {
    state: OrderState,
    /// With what a charge was last tried: declined or not.
    tried: Option<bool>,
    /// Whether a charge stands.
    charged: bool,
    mute: bool,
    /// What the last step was answered.
    told: Told,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Done,
    WrongState,
    Declined,
    Unknown,
}

impl Model {
    /// What is under way ends, if payment-service answers.
    fn settled(mut self) -> Result<Self, Self> {
        let waits = matches!(self.state, OrderState::Paying | OrderState::Cancelling);
        if waits && self.mute {
            self.told = Told::Unknown;
            return Err(self);
        }
        match self.state {
            OrderState::Paying if self.tried == Some(true) => self.state = OrderState::Confirmed,
            OrderState::Paying => self.state = OrderState::Paid,
            OrderState::Cancelling => self.state = OrderState::Cancelled,
            _ => {}
        }
        Ok(self)
    }

    fn pay(mut self, declined: bool) -> Self {
        let tried = self.tried;
        if self.state == OrderState::Paying {
            self = match self.settled() {
                Ok(settled) => settled,
                Err(unknown) => return unknown,
            };
            if self.state == OrderState::Confirmed && tried == Some(declined) {
                return Self { told: Told::Declined, ..self };
            }
        }
        match self.state {
            OrderState::Paid | OrderState::Shipped | OrderState::Completed => {
                return Self { told: Told::Done, ..self };
            }
            OrderState::Confirmed => {}
            _ => return Self { told: Told::WrongState, ..self },
        }
        self.tried = Some(declined);
        self.charged = !declined;
        self.state = OrderState::Paying;
        match self.settled() {
            Err(unknown) => unknown,
            Ok(settled) => Self { told: if declined { Told::Declined } else { Told::Done }, ..settled },
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
            OrderState::Paid => Self { state: OrderState::Shipped, told: Told::Done, ..self },
            OrderState::Shipped | OrderState::Completed => Self { told: Told::Done, ..self },
            _ => Self { told: Told::WrongState, ..self },
        }
    }

    fn complete(self) -> Self {
        match self.state {
            OrderState::Shipped | OrderState::Completed => {
                Self { state: OrderState::Completed, told: Told::Done, ..self }
            }
            _ => Self { told: Told::WrongState, ..self },
        }
    }

    fn cancel(mut self) -> Self {
        match self.state {
            OrderState::Cancelled => return Self { told: Told::Done, ..self },
            OrderState::Shipped | OrderState::Completed => return Self { told: Told::WrongState, ..self },
            _ => {}
        }
        self.state = OrderState::Cancelling;
        // A refund whose answer is lost was made.
        self.charged = false;
        match self.settled() {
            Err(unknown) => unknown,
            Ok(settled) => Self { told: Told::Done, ..settled },
        }
    }
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        let told = Told::Done;
        Just(Self { state: OrderState::Confirmed, tried: None, charged: false, mute: false, told }).boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Step> {
        prop_oneof![
            3 => Just(Step::Pay),
            2 => Just(Step::PayDeclined),
            2 => Just(Step::Ship),
            1 => Just(Step::Complete),
            1 => Just(Step::Cancel),
            2 => any::<bool>().prop_map(Step::Mute),
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
            Step::Mute(mute) => Self { mute, told: Told::Done, ..state },
        }
    }
}

/// One order on a database of its own.
struct Life {
    runtime: Runtime,
    app: PlayedApp,
    sagas: Sagas,
    id: OrderId,
}

impl Life {
    fn mute(&self, mute: bool) {
        for temper in [&self.app.payments.charging, &self.app.payments.refunding] {
            temper.set(if mute { Mood::Loses } else { Mood::Works });
        }
    }

    fn act(&self, act: &Act) -> Told {
        told(&self.runtime.block_on(async {
            let seen = seen(&self.sagas, self.id).await;
            act.perform(&self.sagas, seen).await
        }))
    }

    fn order(&self) -> Wire {
        self.runtime.block_on(self.sagas.store().get(self.id)).unwrap().into()
    }
}

fn told(answer: &Result<Order, Error>) -> Told {
    match answer {
        Ok(_) => Told::Done,
        Err(Error::WrongState(_)) => Told::WrongState,
        Err(Error::Declined) => Told::Declined,
        Err(Error::Neighbour(_)) => Told::Unknown,
        Err(other) => panic!("{other:?}"),
    }
}

fn pay(method: &str) -> Act {
    Act::Pay(PaymentMethod::parse(method).unwrap())
}

impl StateMachineTest for Life {
    type SystemUnderTest = Self;
    type Reference = Model;

    fn init_test(_: &Model) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (app, sagas, id) = runtime.block_on(async {
            let app = PlayedApp::spawn(TestDatabase::sqlite(), 0).await;
            let sagas = app.sagas(Faults::default()).await;
            let id = made(&app, &sagas, "ada").await;
            (app, sagas, id)
        });
        Self { runtime, app, sagas, id }
    }

    fn apply(life: Self, model: &Model, step: Step) -> Self {
        let told = match step {
            Step::Pay => life.act(&pay(CARD)),
            Step::PayDeclined => life.act(&pay(DECLINED)),
            Step::Ship => life.act(&Act::Ship),
            Step::Complete => life.act(&Act::Complete),
            Step::Cancel => life.act(&Act::Cancel),
            Step::Mute(mute) => {
                life.mute(mute);
                Told::Done
            }
        };
        assert_eq!(told, model.told, "{step:?}");
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
