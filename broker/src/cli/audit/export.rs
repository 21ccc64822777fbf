//! `veribus audit export`: every entry, byte by byte as stored, for those who verify elsewhere.

use std::{
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use futures_util::StreamExt as _;
use tempfile::NamedTempFile;
use veribus_client::{AuditFilter, Client};
use veribus_proto::entries;

use crate::cli::{connect::ConnectArgs, failure::Failure, output};

#[derive(Debug, Args)]
pub(in crate::cli) struct ExportArgs {
    /// Where to write; only its owner can read it
    file: PathBuf,
    #[command(flatten)]
    connection: ConnectArgs,
}

pub(super) async fn run(args: ExportArgs) -> Result<(), Failure> {
    let about = |error: &dyn ToString| {
        Failure::failed(format!("cannot write `{}`: {}", args.file.display(), error.to_string()))
    };
    let client = args.connection.connect().await?;
    let file = NamedTempFile::new_in(directory_of(&args.file)).map_err(|error| about(&error))?;
    let mut out = BufWriter::new(file);
    let count = write(&client, &mut out, about).await?;
    let file = out.into_inner().map_err(|error| about(&error))?;
    file.as_file().sync_all().map_err(|error| about(&error))?;
    file.persist(&args.file).map_err(|error| about(&error))?;
    Ok(output::line(format_args!("exported {count} entries to {}", args.file.display()))?)
}

async fn write(
    client: &Client,
    out: &mut impl Write,
    about: impl Fn(&dyn ToString) -> Failure,
) -> Result<u64, Failure> {
    let mut stored = client.audit().query(AuditFilter::all(), 0, 0);
    let (mut count, mut framed) = (0_u64, Vec::new());
    while let Some(entry) = stored.next().await {
        framed.clear();
        entries::push(&mut framed, &entry?.bytes).map_err(|error| about(&error))?;
        out.write_all(&framed).map_err(|error: io::Error| about(&error))?;
        count = count.saturating_add(1);
    }
    Ok(count)
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}
