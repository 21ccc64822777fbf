//! `veribus sub`: messages as they arrive, until interrupted.

use clap::Args;
use data_encoding::BASE64;
use futures_util::StreamExt as _;
use owo_colors::Style;
use serde_json::{Map, Value, json};
use veribus_client::{Delivery, Gap, SubscriptionEvent, SubscriptionEvents};

use super::{connect::ConnectArgs, failure::Failure, output};

#[derive(Debug, Args)]
pub(super) struct SubscribeArgs {
    /// Topic patterns: `*` stands for one level, a last `>` for one or more
    #[arg(required = true)]
    patterns: Vec<String>,
    /// End after so many messages
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Print one JSON object per message
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectArgs,
}

pub(super) async fn run(args: SubscribeArgs) -> Result<(), Failure> {
    let client = args.connection.connect().await?;
    let subscription = client.subscribe(args.patterns).await?;
    output::note(format_args!("subscribed {}", subscription.id()));
    let printing = print(subscription.events(), args.count, args.json);
    tokio::select! {
        done = printing => done,
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

async fn print(mut events: SubscriptionEvents, count: Option<u64>, as_json: bool) -> Result<(), Failure> {
    let mut printed = 0;
    while count.is_none_or(|count| printed < count) {
        match events.next().await {
            None => break,
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(SubscriptionEvent::Delivery(delivery))) => {
                show(&delivery, as_json)?;
                printed = printed.saturating_add(1);
            }
            Some(Ok(SubscriptionEvent::Gap(gap))) => output::note(gap_line(&gap)),
            Some(Ok(_)) => {}
        }
    }
    Ok(())
}

fn show(delivery: &Delivery, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return Ok(output::json(&to_json(delivery))?);
    }
    let data = delivery.text().map_or_else(|_| format!("({} bytes)", delivery.data().len()), str::to_owned);
    let line = output::Line::new()
        .styled(delivery.topic(), Style::new().cyan())
        .text(format_args!(" {} from ", delivery.message.r#type))
        .styled(&delivery.sender.agent, Style::new().green())
        .text(format_args!(" entry {}  {data}", delivery.audit_index));
    Ok(output::line(line)?)
}

fn gap_line(gap: &Gap) -> String {
    match gap {
        Gap::Resubscribed { cause } => format!("gap: subscribed again after the connection was lost ({cause})"),
        Gap::Dropped { messages } => format!("gap: {messages} messages were dropped for want of room"),
        Gap::CutOff { undelivered } => format!("gap: too slow, cut off: {undelivered} messages were not delivered"),
        _ => "gap: messages may be missing".to_owned(),
    }
}

fn to_json(delivery: &Delivery) -> Value {
    let (message, sender) = (&delivery.message, &delivery.sender);
    let mut object = Map::new();
    let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
    put("topic", json!(message.topic));
    put("type", json!(message.r#type));
    match delivery.text() {
        Ok(text) => put("data", json!(text)),
        Err(_) => put("data_base64", json!(BASE64.encode(delivery.data()))),
    };
    put("datacontenttype", json!(message.datacontenttype));
    put("id", json!(message.id));
    put(
        "sender",
        json!({
            "issuer": sender.issuer,
            "agent": sender.agent,
            "roles": sender.roles,
            "token_id": sender.token_id,
            "token_expires_at": sender.token_expires_at,
        }),
    );
    put("decision_id", json!(delivery.decision_id));
    put("audit_index", json!(delivery.audit_index));
    put("destination", json!(message.destination));
    put("subject", json!(message.subject));
    put("reply_to", json!(message.reply_to));
    put("correlation_id", json!(message.correlation_id));
    put("attributes", json!(message.attributes));
    Value::Object(object)
}
