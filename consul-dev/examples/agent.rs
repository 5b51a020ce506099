//! A development agent on its own: `cargo run -p consul-dev --example agent -- 127.0.0.1:8500`.

use std::net::SocketAddr;

use consul_dev::{Agent, Options};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8500".to_owned());
    let agent = Agent::bind(addr.parse::<SocketAddr>()?, Options::default()).await?;
    #[allow(clippy::print_stdout, reason = "an example's output")]
    {
        println!("CONSUL_HTTP_ADDR={}", agent.url());
    }
    tokio::signal::ctrl_c().await?;
    agent.stop().await;
    Ok(())
}
