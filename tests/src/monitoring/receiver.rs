//! Whoever is called by Alertmanager.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
};

/// A webhook.
pub struct Receiver(TcpListener);

impl Receiver {
    /// On a port of its own.
    ///
    /// # Panics
    /// When there is none.
    #[expect(clippy::new_without_default, reason = "it takes a port")]
    #[must_use]
    pub fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap_or_else(|error| panic!("a port: {error}")))
    }

    /// Where to call.
    ///
    /// # Panics
    /// When the port has no number.
    #[must_use]
    pub fn url(&self) -> String {
        let address = self.0.local_addr().unwrap_or_else(|error| panic!("its port: {error}"));
        format!("http://{address}/")
    }

    /// The first call that is about this.
    ///
    /// # Panics
    /// When nobody can call any more.
    #[must_use]
    pub fn wait_for(&self, alert: &str) -> String {
        let calls = self.0.incoming().map(|stream| {
            let mut reader = BufReader::new(stream?);
            let mut length = 0;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line)?;
                let header = line.trim().to_ascii_lowercase();
                if header.is_empty() {
                    break;
                }
                if let Some(bytes) = header.strip_prefix("content-length: ") {
                    length = bytes.parse().unwrap_or(0);
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            reader
                .get_mut()
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&body).into_owned())
        });
        let mut calls = calls.filter_map(Result::ok); // one that is cut off is made again
        calls.find(|call| call.contains(alert)).unwrap_or_else(|| panic!("nobody called about {alert}"))
    }
}
