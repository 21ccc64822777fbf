//! The program that the README shows, word for word; `tests/readme.rs` sees to that, and runs it.
#![expect(clippy::print_stdout, reason = "it is a program to be read, and prints")]

use futures_util::StreamExt as _;
use veribus_client::{Client, Message};

#[tokio::main]
async fn main() -> Result<(), veribus_client::Error> {
    let client = Client::from_env().await?;
    let mut inbox = client.subscribe(["finance.>"]).await?;
    let message = Message::json("finance.reports", "finance.report", r#"{"quarter":2}"#);
    println!("recorded as entry {}", client.publish(message).await?.audit_index);
    if let Some(delivery) = inbox.next().await {
        println!("{}", delivery?.text()?);
    }
    Ok(())
}
