//! A request, by hand.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

/// The body of what is answered there.
///
/// # Panics
/// When nobody answers.
#[must_use]
pub fn get(address: &str, path: &str) -> String {
    let answer = TcpStream::connect(address).and_then(|mut stream| {
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    });
    let answer = answer.unwrap_or_else(|error| panic!("{address}{path}: {error}"));
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
}
