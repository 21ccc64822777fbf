//! How a command ends when it does not end well.

use std::{io, process::ExitCode};

use veribus_client::Error as ClientError;

use super::output;

/// Why a command ends early.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Wrong usage or a bad configuration: exit code 2.
    Usage(String),
    /// Refused or failed: exit code 1.
    Failed(String),
    /// The same, and the user has been told why.
    Reported,
    /// As [`Failure::Usage`], and the user has been told why.
    ReportedUsage,
    /// Nobody reads our output any more: nothing to complain about.
    OutputClosed,
}

impl Failure {
    pub(super) fn usage(reason: impl ToString) -> Self {
        Self::Usage(reason.to_string())
    }

    pub(super) fn failed(reason: impl ToString) -> Self {
        Self::Failed(reason.to_string())
    }

    /// Says it on one line, and gives the exit code.
    pub(super) fn report(&self) -> ExitCode {
        if let Self::Usage(reason) | Self::Failed(reason) = self {
            output::complain(one_line(reason));
        }
        ExitCode::from(self.code())
    }

    const fn code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::ReportedUsage => 2,
            Self::Failed(_) | Self::Reported => 1,
            Self::OutputClosed => 0,
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// From writing to standard output, and nothing else.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::OutputClosed
        } else {
            Self::Failed(format!("cannot write the output: {error}"))
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::InvalidUrl { .. } | ClientError::Configuration(_) | ClientError::TokenFile { .. } => {
                Self::usage(error)
            }
            _ => Self::failed(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_on_one_line() {
        assert_eq!(one_line("cannot\n  do\tthis "), "cannot do this");
    }

    #[test]
    fn a_closed_output_is_no_failure_and_another_fault_is() {
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).code(), 0);
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::StorageFull)).code(), 1);
    }

    #[test]
    fn a_bad_setting_is_wrong_usage_and_a_broker_that_is_away_is_a_failure() {
        let setting = ClientError::Configuration("no certificate authorities".to_owned());
        assert_eq!(Failure::from(setting).code(), 2);
        let away = ClientError::Unreachable { address: "a:1".to_owned(), fault: "refused".to_owned() };
        assert_eq!(Failure::from(away).code(), 1);
    }
}
