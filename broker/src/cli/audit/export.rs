//! `veribus audit export`: every entry, byte by byte as stored, for those who verify elsewhere.

use std::{
    io::{self, BufWriter, Write},
    path::PathBuf,
};

use clap::Args;
use futures_util::StreamExt as _;
use veribus_client::{AuditFilter, Client};
use veribus_proto::entries;

use crate::{
    cli::{connect::ConnectArgs, failure::Failure, output},
    dev::{OutputFile, OutputTarget},
};

const MODE: u32 = 0o600;

#[derive(Debug, Args)]
pub(in crate::cli) struct ExportArgs {
    /// Where to write, `-` for standard output; a file only its owner can read. A device or a pipe is written into
    file: PathBuf,
    #[command(flatten)]
    connection: ConnectArgs,
}

pub(super) async fn run(args: ExportArgs) -> Result<(), Failure> {
    let is_standard_output = args.file.as_os_str() == "-";
    let about = |error| match error {
        Fault::Entries(failure) => failure,
        // Whoever reads standard output may stop when they have enough.
        Fault::Output(error) if is_standard_output && error.kind() == io::ErrorKind::BrokenPipe => error.into(),
        Fault::Output(error) => Failure::failed(format!("cannot write `{}`: {error}", args.file.display())),
    };
    let target = OutputTarget::of(&args.file).map_err(|error| about(error.into()))?;
    let client = args.connection.connect().await?;
    let file = OutputFile::create(target, MODE).map_err(|error| about(error.into()))?;
    let count = write(&client, file).await.map_err(about)?;
    let told = format!("exported {count} entries to {}", args.file.display());
    if is_standard_output {
        output::note(told);
        return Ok(());
    }
    Ok(output::line(told)?)
}

enum Fault {
    Entries(Failure),
    Output(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

async fn write(client: &Client, file: OutputFile) -> Result<u64, Fault> {
    let mut out = BufWriter::new(file);
    let mut stored = client.audit().query(AuditFilter::all(), 0, 0);
    let (mut count, mut framed) = (0_u64, Vec::new());
    while let Some(entry) = stored.next().await {
        framed.clear();
        let entry = entry.map_err(|error| Fault::Entries(error.into()))?;
        entries::push(&mut framed, &entry.bytes).map_err(|error| Fault::Entries(Failure::failed(error)))?;
        out.write_all(&framed)?;
        count = count.saturating_add(1);
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?;
    Ok(count)
}
