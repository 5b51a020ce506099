//! The two services: ordinary tonic, except that the channel comes from the
//! mesh.

use registry_client::{Channel, Mesh};
use tonic::{Request, Response, Status};

use crate::proto::{
    GreetRequest, GreetResponse, WelcomeRequest, WelcomeResponse, front_server::Front,
    greeter_client::GreeterClient, greeter_server::Greeter,
};

/// The service `Greeter`, which returns its instance's name too.
pub(crate) struct Greetings {
    pub(crate) instance: String,
}

#[tonic::async_trait]
impl Greeter for Greetings {
    async fn greet(&self, request: Request<GreetRequest>) -> Result<Response<GreetResponse>, Status> {
        let greeting = format!("Hello, {}!", request.into_inner().name);
        Ok(Response::new(GreetResponse { greeting, instance: self.instance.clone() }))
    }
}

/// The service `Front`, which calls a greeter.
pub(crate) struct Welcomes {
    greeter: GreeterClient<Channel>,
}

impl Welcomes {
    pub(crate) fn new(mesh: &Mesh) -> Self {
        Self { greeter: GreeterClient::new(mesh.channel("greeter")) }
    }
}

#[tonic::async_trait]
impl Front for Welcomes {
    async fn welcome(&self, request: Request<WelcomeRequest>) -> Result<Response<WelcomeResponse>, Status> {
        let name = request.into_inner().visitor;
        let GreetResponse { greeting, instance } =
            self.greeter.clone().greet(GreetRequest { name }).await?.into_inner();
        Ok(Response::new(WelcomeResponse { text: format!("{greeting} (from {instance})") }))
    }
}
