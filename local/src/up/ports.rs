//! The ports of `make up`.

use std::{
    env, io,
    net::{Ipv4Addr, TcpListener},
};

use crate::up::Running;

/// The ports on loopback to use; 0 takes a free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ports {
    pub(super) aws: u16,
    pub(super) gladly: u16,
    pub(super) destination: u16,
    pub(super) page: u16,
}

/// Why a port cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Not a port.
    #[error("invalid {name} \"{text}\": expected a number from 1 to 65535")]
    Invalid {
        /// The environment variable.
        name: &'static str,
        /// Its value.
        text: String,
    },
    /// Two servers cannot share a port.
    #[error("{first} and {second} are both {port}: expected different ports")]
    Same {
        /// An environment variable.
        first: &'static str,
        /// Another one.
        second: &'static str,
        /// The value of both.
        port: u16,
    },
    /// Another program listens there.
    #[error("{name} {port} is in use by another program")]
    Taken {
        /// The environment variable.
        name: &'static str,
        /// Its value.
        port: u16,
    },
    /// It could not be opened, perhaps for lack of permission.
    #[error("could not listen on {name} {port}")]
    Unavailable {
        /// The environment variable.
        name: &'static str,
        /// Its value.
        port: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The relay runs, but elsewhere.
    #[error("the relay is up without {name} {port}: stop it with \"make down\" first")]
    Elsewhere {
        /// The environment variable.
        name: &'static str,
        /// Its value.
        port: u16,
    },
}

impl Ports {
    /// Those in `AWS_PORT`, `GLADLY_PORT`, `DESTINATION_PORT` and `PAGE_PORT`, 1 to 65535; free ones where a variable is
    /// unset or empty.
    pub(super) fn from_env() -> Result<Self, PortError> {
        Self::from_variables(|name| env::var_os(name).map(|it| it.to_string_lossy().into_owned()))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, PortError> {
        let port = |name: &'static str| {
            let text = variable(name).unwrap_or_default();
            if text.is_empty() {
                return Ok(0);
            }
            let port = text.parse().ok().filter(|port| *port != 0);
            port.ok_or(PortError::Invalid { name, text })
        };
        let ports = Self {
            aws: port("AWS_PORT")?,
            gladly: port("GLADLY_PORT")?,
            destination: port("DESTINATION_PORT")?,
            page: port("PAGE_PORT")?,
        };
        let named = ports.named();
        for (at, (first, port)) in named.into_iter().enumerate() {
            let other = named[at + 1..].iter().find(|(_, other)| *other == port && port != 0);
            if let Some(&(second, _)) = other {
                return Err(PortError::Same { first, second, port });
            }
        }
        Ok(ports)
    }

    /// Each with the environment variable that sets it.
    fn named(self) -> [(&'static str, u16); 4] {
        [
            ("AWS_PORT", self.aws),
            ("GLADLY_PORT", self.gladly),
            ("DESTINATION_PORT", self.destination),
            ("PAGE_PORT", self.page),
        ]
    }

    /// Fails if one is taken.
    pub(super) fn check_free(self) -> Result<(), PortError> {
        for (name, port) in self.named() {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|error| match error.kind() {
                io::ErrorKind::AddrInUse => PortError::Taken { name, port },
                _ => PortError::Unavailable { name, port, source: error },
            })?;
        }
        Ok(())
    }

    /// Fails if what runs has other ports.
    pub(super) fn check_used_by(self, running: &Running) -> Result<(), PortError> {
        let Running { aws_url, gladly_url, destination_url, page_url, .. } = running;
        let urls = [aws_url, gladly_url, destination_url, page_url];
        for ((name, port), url) in self.named().into_iter().zip(urls) {
            if port != 0 && !url.ends_with(&format!(":{port}")) {
                return Err(PortError::Elsewhere { name, port });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(variables: &[(&str, &str)]) -> Result<Ports, String> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, text)| (*text).to_owned())
        };
        Ports::from_variables(variable).map_err(|error| error.to_string())
    }

    #[test]
    fn a_port_is_a_number_from_1_to_65535_and_no_two_are_the_same() {
        let expected = |aws, gladly, page| Ok(Ports { aws, gladly, destination: 0, page });
        assert_eq!(ports(&[]), expected(0, 0, 0));
        assert_eq!(ports(&[("AWS_PORT", "1"), ("GLADLY_PORT", "65535")]), expected(1, 65535, 0));
        assert_eq!(ports(&[("PAGE_PORT", "8080")]), expected(0, 0, 8080));
        assert_eq!(ports(&[("DESTINATION_PORT", "")]), expected(0, 0, 0));
        for text in ["0", "65536", "-1", "4566x", " 4566"] {
            let sentence =
                format!("invalid GLADLY_PORT \"{text}\": expected a number from 1 to 65535");
            assert_eq!(ports(&[("GLADLY_PORT", text)]), Err(sentence));
        }
        let sentence = "AWS_PORT and DESTINATION_PORT are both 4566: expected different ports";
        let same = [("AWS_PORT", "4566"), ("DESTINATION_PORT", "4566")];
        assert_eq!(ports(&same), Err(sentence.to_owned()));
    }

    #[test]
    fn a_taken_port_is_named() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let gladly = taken.local_addr().unwrap().port();
        let ports = Ports { aws: 0, gladly, destination: 0, page: 0 };
        let error = ports.check_free().unwrap_err();
        assert_eq!(error.to_string(), format!("GLADLY_PORT {gladly} is in use by another program"));
        drop(taken);
        ports.check_free().unwrap();
    }
}
