//! The SDK against a scripted broker over real TLS.

mod audit;
mod connecting;
mod fake;
#[cfg(feature = "oauth")]
mod oauth;
mod proving;
mod publishing;
mod refreshing;
mod source;
mod streaming;
mod subscribing;

use crate::{AuditEntries, Client, Message, Pending, Publisher, Subscription, SubscriptionEvents};

#[test]
fn everything_can_move_to_another_task() {
    fn moves<T: Send + 'static>() {}
    fn is_shared<T: Send + Sync + 'static>() {}
    fn moves_with(client: Client, publisher: Publisher) -> impl Send {
        async move {
            let _ = client.publish(Message::new("a", "b", "c")).await;
            let _ = client.subscribe(["a"]).await;
            let _ = publisher.send_batch(Vec::new()).await;
            publisher.close().await;
        }
    }
    is_shared::<Client>();
    is_shared::<Publisher>();
    moves::<(Pending, Subscription, SubscriptionEvents, AuditEntries)>();
    let _ = moves_with;
}
