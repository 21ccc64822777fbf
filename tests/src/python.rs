//! A Python interpreter with the packages of `python/requirements.txt`, and the scripts in that folder.
//!
//! `VERIBUS_PYTHON` names an interpreter that has them. Without it, a virtual environment is made from PyPI; where that
//! cannot be, tests skip, unless `VERIBUS_PYTHON_REQUIRED=1`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::{io::AsyncWriteExt as _, process::Command, sync::Mutex};

/// What a script may say at most, in bytes.
const OUTPUT_BYTES_MAX: usize = 16 << 20;
/// Two tests of one program do not install at a time.
static INSTALLING: Mutex<()> = Mutex::const_new(());

/// Runs scripts.
pub struct Python(PathBuf);

impl Python {
    /// Finds an interpreter; none, with a line on standard error, where there is none and none is required. `place` is where
    /// a virtual environment may be made: one for each test program, since several may run at a time.
    ///
    /// # Errors
    /// No interpreter, although one is required.
    pub async fn find(place: &Path) -> Result<Option<Self>> {
        match interpreter(place).await {
            Ok(python) => Ok(Some(Self(python))),
            Err(error) if env::var("VERIBUS_PYTHON_REQUIRED").is_ok_and(|required| required == "1") => Err(error),
            Err(error) => {
                say_skipped(&error);
                Ok(None)
            }
        }
    }

    /// A script of the folder, to be given arguments.
    #[must_use]
    pub fn script(&self, name: &str) -> Command {
        let mut command = Command::new(&self.0);
        command.arg(here().join(name));
        command
    }
}

/// What a program says, given this on its standard input.
///
/// # Errors
/// It fails, says much too much, or no text.
pub async fn run(command: &mut Command, input: &[u8]) -> Result<String> {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn()?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    let feed = async move {
        // It may end without reading.
        let _ = stdin.write_all(input).await;
    };
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    let output = output?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    ensure!(output.stdout.len() < OUTPUT_BYTES_MAX, "much too much was said");
    Ok(String::from_utf8(output.stdout)?)
}

#[expect(clippy::print_stderr, reason = "a test that does not run must be seen to")]
fn say_skipped(why: &anyhow::Error) {
    eprintln!("skipped: {why:#}");
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python")
}

async fn interpreter(place: &Path) -> Result<PathBuf> {
    if let Some(python) = env::var_os("VERIBUS_PYTHON") {
        return Ok(python.into());
    }
    let _installing = INSTALLING.lock().await;
    let (python, done) = (place.join("bin/python"), place.join("installed"));
    let requirements = here().join("requirements.txt");
    let wanted = fs::read_to_string(&requirements)?;
    if fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    let mut make = Command::new("python3");
    run(make.args(["-m", "venv", "--clear"]).arg(place), &[]).await.context("no virtual environment")?;
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "-r"];
    let mut pip = Command::new(&python);
    run(pip.args(install).arg(&requirements), &[]).await.context("the packages cannot be installed")?;
    fs::write(done, wanted)?;
    Ok(python)
}
