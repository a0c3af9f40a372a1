//! Telling the outside what is seen: over HTTP, in a file for node_exporter, to the service manager, in the journal.

pub(crate) mod http;
pub(crate) mod journal;
pub(crate) mod own;
pub(crate) mod service;
pub(crate) mod textfile;
