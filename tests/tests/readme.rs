//! The README's example in Rust: it compiles, it runs, and it prints what a reader would expect.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use tokio::process::Command;
use veribus_tests::{broker::TestBroker, patiently};

fn read(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

#[test]
fn the_readme_shows_the_program_that_is_tested() -> Result<()> {
    let readme = read("../README.md")?;
    let (_, after) = readme.split_once("```rust\n").context("an example in Rust")?;
    let (shown, rest) = after.split_once("```\n").context("its end")?;
    assert!(read("src/bin/readme.rs")?.ends_with(&format!("\n\n{shown}")), "another program:\n{shown}");
    assert!(!rest.contains("```rust"), "another example, which is not tested");
    Ok(())
}

#[tokio::test]
async fn the_program_in_the_readme_publishes_and_receives() -> Result<()> {
    let broker = TestBroker::start().await?;
    let directory = broker.directory();
    // The shell lines that the README tells to source.
    directory.write_env(broker.address())?;
    let script = "source \"$1\" && exec \"$2\"";
    let mut shell = Command::new("bash");
    shell.args(["-c", script, "bash"]).arg(directory.env_path()).arg(env!("CARGO_BIN_EXE_readme")).kill_on_drop(true);
    let output = patiently(shell.output()).await??;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout)?;
    let [recorded, received] = said.lines().collect::<Vec<_>>()[..] else { anyhow::bail!("{said}") };
    let index: u64 = recorded.strip_prefix("recorded as entry ").context("a receipt")?.parse()?;
    assert_eq!(received, r#"{"quarter":2}"#);
    let log = broker.log().await?;
    assert_eq!(log.at(index)?.resource, "finance.reports");
    Ok(())
}
