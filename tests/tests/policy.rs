//! What a policy can and cannot do to the messages of a running broker.

use anyhow::{Context as _, Result};
use veribus_client::Message;
use veribus_proto::v1::Decision;
use veribus_tests::broker::{Setup, TestBroker};

const OPEN: &str = "package veribus\n\nallow if true\n\n";

/// Publishes, and says how the log has it: the decision, and by which rules.
async fn decided(broker: &TestBroker, message: Message) -> Result<(Decision, Vec<String>)> {
    let id = message.message_id().to_owned();
    let sent = broker.agent("finance-agent").await?.publish(message).await;
    let log = broker.log().await?;
    let decision = log.decision(&id)?.decision.clone().context("a decision")?;
    assert_eq!(sent.is_ok(), decision.decision() == Decision::Allow, "{sent:?}");
    Ok((decision.decision(), decision.rules))
}

fn message(id: &str, topic: &str, body: &str) -> Message {
    Message::json(topic, "test", body).id(id)
}

#[tokio::test]
async fn data_lies_under_the_path_of_its_folder() -> Result<()> {
    let policy = format!("{OPEN}deny contains {{\"rule\": \"blocked\"}} if input.agent.id in data.blocklists.agents\n");
    let setup = Setup::default().open_policy().policy(policy);
    let blocking = setup.policy_data("blocklists/data.json", r#"{"agents": ["finance-agent"]}"#).start().await?;
    let denied = decided(&blocking, message("m", "finance.x", "{}")).await?;
    assert_eq!(denied, (Decision::Deny, vec!["blocked".to_owned()]));
    Ok(())
}

#[tokio::test]
async fn an_evaluation_out_of_budget_denies_and_is_recorded_as_that() -> Result<()> {
    let numbers: Vec<_> = (0..200).map(|number| number.to_string()).collect();
    let policy = format!(
        "{OPEN}numbers := [{}]\n\ndeny contains {{\"rule\": \"slow\"}} if {{\n\tinput.topic == \"finance.slow\"\n\t\
         some a in numbers\n\tsome b in numbers\n\tsome c in numbers\n\ta == b\n\tc < 0\n}}\n",
        numbers.join(", ")
    );
    let broker = Setup::default().open_policy().policy(policy).start().await?;
    let slow = decided(&broker, message("slow", "finance.slow", "{}")).await?;
    assert_eq!(slow, (Decision::Deny, vec!["native/policy-budget".to_owned()]));
    assert_eq!(decided(&broker, message("quick", "finance.quick", "{}")).await?.0, Decision::Allow);
    Ok(())
}

#[tokio::test]
async fn an_error_of_a_policy_denies_the_message_that_it_is_about() -> Result<()> {
    let policy = format!("{OPEN}deny contains {{\"rule\": \"x\"}} if startswith(input.message.body.name, \"x\")\n");
    let broker = Setup::default().open_policy().policy(policy).start().await?;
    let wrong = decided(&broker, message("wrong", "finance.x", r#"{"name": 7}"#)).await?;
    assert_eq!(wrong, (Decision::Deny, vec!["native/policy-error".to_owned()]));
    let blurred = message("blurred", "finance.x", r#"{"name": "a", "n": 123456789012345678901}"#);
    let refused = (Decision::Deny, vec!["native/policy-input".to_owned()]);
    assert_eq!(decided(&broker, blurred).await?, refused);
    assert_eq!(decided(&broker, message("right", "finance.x", r#"{"name": "a"}"#)).await?.0, Decision::Allow);
    Ok(())
}
