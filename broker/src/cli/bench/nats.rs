//! As much of the NATS client protocol as a measurement needs
//! (<https://docs.nats.io/reference/reference-protocols/nats-protocol>): plain TCP to a server that this process started,
//! requests with numbered inboxes, their answers. Its own client brings a second TLS stack into the program, and is not
//! needed for this. Out of scope: everything else, and servers that are not trusted.

use std::io::{self, Write as _};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// The longest line or answer that is taken, in bytes.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A connection that is subscribed to its inboxes.
pub(super) struct Connection {
    writer: Writer,
    reader: Reader,
    version: String,
}

/// Gathers requests and sends them.
pub(super) struct Writer {
    half: OwnedWriteHalf,
    buffer: Vec<u8>,
}

/// Reads answers.
pub(super) struct Reader {
    half: BufReader<OwnedReadHalf>,
    line: Vec<u8>,
    payload: Vec<u8>,
}

impl Connection {
    pub(super) async fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (read, write) = stream.into_split();
        let mut reader = Reader { half: BufReader::new(read), line: Vec::new(), payload: Vec::new() };
        let info = reader.line().await?.strip_prefix("INFO ").map(str::to_owned).ok_or_else(unexpected)?;
        let info: Value = serde_json::from_str(&info)?;
        let version = info.get("version").and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut writer = Writer { half: write, buffer: Vec::new() };
        writer.buffer.extend_from_slice(
            b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}\r\n\
              SUB _INBOX.bench.* 1\r\nPING\r\n",
        );
        writer.flush().await?;
        match reader.line().await? {
            "PONG" => Ok(Self { writer, reader, version }),
            _ => Err(unexpected()),
        }
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Asks one question and returns the answer.
    pub(super) async fn request(&mut self, subject: &str, payload: &[u8]) -> io::Result<Vec<u8>> {
        self.writer.add(subject, 0, payload);
        self.writer.flush().await?;
        self.reader.next().await?;
        Ok(std::mem::take(&mut self.reader.payload))
    }

    pub(super) fn split(self) -> (Writer, Reader) {
        (self.writer, self.reader)
    }
}

impl Writer {
    /// Adds a request, to be answered under `number`.
    pub(super) fn add(&mut self, subject: &str, number: u64, payload: &[u8]) {
        // Writing to a vector does not fail.
        let _ = write!(self.buffer, "PUB {subject} _INBOX.bench.{number} {}\r\n", payload.len());
        self.buffer.extend_from_slice(payload);
        self.buffer.extend_from_slice(b"\r\n");
    }

    pub(super) async fn flush(&mut self) -> io::Result<()> {
        self.half.write_all(&self.buffer).await?;
        self.buffer.clear();
        Ok(())
    }
}

impl Reader {
    /// The next answer: to which request, and whether it was carried out.
    pub(super) async fn next(&mut self) -> io::Result<(u64, bool)> {
        loop {
            let Some((number, header, total)) = parse(self.line().await?)? else { continue };
            self.payload.resize(total + 2, 0);
            self.half.read_exact(&mut self.payload).await?;
            self.payload.truncate(total);
            let is_success = if header > 0 { has_no_status(&self.payload) } else { is_success(&self.payload) };
            return Ok((number, is_success));
        }
    }

    async fn line(&mut self) -> io::Result<&str> {
        self.line.clear();
        let mut limited = (&mut self.half).take(ANSWER_BYTES_MAX as u64);
        limited.read_until(b'\n', &mut self.line).await?;
        let line = self.line.strip_suffix(b"\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
        std::str::from_utf8(line).map_err(|_| unexpected())
    }
}

/// Number, header length and total length of the message that follows this line, if one does.
fn parse(line: &str) -> io::Result<Option<(u64, usize, usize)>> {
    let mut words = line.split_ascii_whitespace();
    let has_header = match words.next() {
        Some("MSG") => false,
        Some("HMSG") => true,
        Some("PING" | "PONG" | "INFO" | "+OK") => return Ok(None),
        _ => return Err(unexpected()),
    };
    let number = words.next().and_then(|inbox| inbox.rsplit('.').next()).and_then(|number| number.parse().ok());
    let mut lengths = words.skip(1).map(str::parse::<usize>);
    let mut length = || lengths.next().and_then(Result::ok).filter(|length| *length <= ANSWER_BYTES_MAX);
    let header = if has_header { length() } else { Some(0) };
    match (number, header, length()) {
        (Some(number), Some(header), Some(total)) => Ok(Some((number, header, total))),
        _ => Err(unexpected()),
    }
}

/// Whether an answer of JetStream tells of no error.
pub(super) fn is_success(answer: &[u8]) -> bool {
    serde_json::from_slice::<Value>(answer).is_ok_and(|answer| answer.get("error").is_none())
}

/// A value comes with headers and no status; what is not there comes with `NATS/1.0 404`.
fn has_no_status(message: &[u8]) -> bool {
    message.starts_with(b"NATS/1.0\r\n")
}

fn unexpected() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an unexpected answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_name_their_request_and_their_length() {
        assert_eq!(parse("MSG _INBOX.bench.7 1 30").ok(), Some(Some((7, 0, 30))));
        assert_eq!(parse("HMSG _INBOX.bench.8 1 12 530").ok(), Some(Some((8, 12, 530))));
        assert_eq!(parse("PING").ok(), Some(None));
        for line in ["", "-ERR 'no'", "MSG a.b 1 2", "MSG _INBOX.bench.7 1", "MSG _INBOX.bench.7 1 99999999999"] {
            assert!(parse(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn an_error_is_no_success() {
        assert!(is_success(br#"{"stream":"KV_bench","seq":7}"#));
        assert!(!is_success(br#"{"error":{"code":503}}"#));
        assert!(!is_success(b""));
        assert!(has_no_status(b"NATS/1.0\r\nNats-Stream: KV_bench\r\n\r\nvalue"));
        assert!(!has_no_status(b"NATS/1.0 404 Message Not Found\r\n\r\n"));
    }
}
