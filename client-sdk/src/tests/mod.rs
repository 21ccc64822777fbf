//! The SDK against a scripted broker over real TLS.

mod audit;
mod connecting;
mod fake;
mod fake_state;
#[cfg(feature = "oauth")]
mod oauth;
mod proving;
mod publishing;
mod refreshing;
mod sharing;
mod source;
mod state_sessions;
mod state_watches;
mod streaming;
mod subscribing;

use crate::{
    AuditEntries, Client, Message, Pending, PendingState, Publisher, State, StateList, StateSession, StateWatch,
    Subscription, SubscriptionEvents, Written,
};

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
    fn shares_with(state: State, session: StateSession) -> impl Send {
        async move {
            let _ = state.put("a/b", "c").await;
            let _ = state.update("a/b", |_| "d").await;
            let _ = state.update_json("a/b", |count: Option<u64>| count.unwrap_or(0)).await;
            let _ = session.put("a/b", "c").await;
        }
    }
    is_shared::<Publisher>();
    is_shared::<State>();
    is_shared::<StateSession>();
    moves::<(PendingState<Written>, StateList, StateWatch)>();
    let _ = shares_with;
    moves::<(Pending, Subscription, SubscriptionEvents, AuditEntries)>();
    let _ = moves_with;
}
