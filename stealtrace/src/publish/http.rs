//! What Prometheus asks: `/metrics`, `/healthz`, and a page that says so. Whoever asks is a stranger: one request a
//! connection, few of these at a time, each with little room and time.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpStream,
    runtime,
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use crate::{
    model::Scrape,
    os::privileges,
    report::metrics::{self, Exposition, Page, Series},
};

/// Connections at a time.
const CONNECTIONS: usize = 64;
/// Room for a request: hyper's least.
const REQUEST_BYTES: usize = 8192;
/// Time for a request to come.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time for an answer to be made.
const ANSWER: Duration = Duration::from_secs(10);

/// Somebody wants to know.
pub(crate) enum Ask {
    /// Everything.
    Scrape(oneshot::Sender<Arc<Scrape>>),
    /// Are the probes attached, and is the ring read? Else why not.
    Health(oneshot::Sender<Result<(), String>>),
}

/// Serves until the process ends.
pub(crate) struct Server {
    pub(crate) listener: TcpListener,
    pub(crate) series: Series,
    pub(crate) most: usize,
}

impl Server {
    /// Begin to serve, on a thread; who asks is handed over.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(crate) fn begin(self) -> Result<mpsc::Receiver<Ask>> {
        let (ask, asked) = mpsc::channel(CONNECTIONS);
        self.listener.set_nonblocking(true).context("listen")?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build().context("serve HTTP")?;
        thread::Builder::new()
            .name("http".to_owned())
            .spawn(move || {
                privileges::drop_all();
                runtime.block_on(self.serve(ask));
            })
            .context("start a thread")?;
        Ok(asked)
    }

    async fn serve(self, ask: mpsc::Sender<Ask>) {
        let Ok(listener) = tokio::net::TcpListener::from_std(self.listener) else { return };
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok((stream, from)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await; // no descriptor is free
                continue;
            };
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                refuse(stream);
                continue;
            };
            let site = Site { ask: ask.clone(), series: self.series, most: self.most, from };
            tokio::spawn(async move {
                let _cut_off = timeout(PATIENCE + ANSWER + PATIENCE, answer(stream, site)).await;
                drop(slot);
            });
        }
    }
}

/// Too many at a time: said without reading what they want.
fn refuse(stream: TcpStream) {
    const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let _unheard = stream.try_write(BUSY);
}

async fn answer(stream: TcpStream, site: Site) -> Result<(), hyper::Error> {
    let _as_is = stream.set_nodelay(true);
    let respond = service_fn(|request| site.respond(request));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(false)
        .max_buf_size(REQUEST_BYTES)
        .serve_connection(TokioIo::new(stream), respond)
        .await
}

/// What one connection may see.
struct Site {
    ask: mpsc::Sender<Ask>,
    series: Series,
    most: usize,
    from: SocketAddr,
}

type Reply = Response<Full<Bytes>>;

impl Site {
    async fn respond(&self, request: Request<Incoming>) -> Result<Reply, Infallible> {
        Ok(match (self.refusal(&request), request.uri().path()) {
            (Some(refusal), _) => refusal,
            (None, "/metrics") => self.metrics(&request).await,
            (None, "/healthz") => self.health().await,
            (None, "/") => page(StatusCode::OK, "text/html; charset=utf-8", LANDING),
            _ => text(StatusCode::NOT_FOUND, "there are /metrics and /healthz\n"),
        })
    }

    fn refusal(&self, request: &Request<Incoming>) -> Option<Reply> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            reply.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
            return Some(reply);
        }
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
        let is_foreign = self.from.ip().to_canonical().is_loopback() && !is_local(host);
        is_foreign.then(|| text(StatusCode::MISDIRECTED_REQUEST, "this is no host of that name\n"))
    }

    async fn metrics(&self, request: &Request<Incoming>) -> Reply {
        let (tell, told) = oneshot::channel();
        let Some(scrape) = self.asked(Ask::Scrape(tell), told).await else { return unanswered() };
        let exposition = accepted(request);
        let page = Page { scrape, series: self.series, most: self.most, is_textfile: false };
        match metrics::write(page, exposition) {
            Ok(body) => self::page(StatusCode::OK, exposition.content_type(), body),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    async fn health(&self) -> Reply {
        let (tell, told) = oneshot::channel();
        match self.asked(Ask::Health(tell), told).await {
            Some(Ok(())) => text(StatusCode::OK, "attached, and every event is read\n"),
            Some(Err(reason)) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
            None => unanswered(),
        }
    }

    async fn asked<T>(&self, ask: Ask, told: oneshot::Receiver<T>) -> Option<T> {
        self.ask.try_send(ask).ok()?;
        timeout(ANSWER, told).await.ok()?.ok()
    }
}

/// A browser that was led astray by a foreign name for this address sends that name.
fn is_local(host: &str) -> bool {
    let name = host.rsplit_once(':').filter(|(name, _)| !name.ends_with(':')).map_or(host, |(name, _)| name);
    let name = if name.starts_with('[') { name } else { name.trim_end_matches('.') };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.is_empty() || name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

fn accepted(request: &Request<Incoming>) -> Exposition {
    let accepts = request.headers().get_all(header::ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    let wants_open = accepts
        .flat_map(|accept| accept.split(','))
        .any(|one| one.trim().starts_with("application/openmetrics-text"));
    if wants_open { Exposition::OpenMetrics } else { Exposition::Prometheus }
}

fn unanswered() -> Reply {
    text(StatusCode::SERVICE_UNAVAILABLE, "not answered in time: stealtrace is busy or ends\n")
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    page(status, "text/plain; charset=utf-8", body)
}

fn page(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    reply
}

const LANDING: &str = "<!doctype html><html lang=en><meta charset=utf-8><title>stealtrace</title>\
<h1>stealtrace</h1><p>Steal time of this host's virtual CPUs, and what makes it wrong.\
<ul><li><a href=/metrics>/metrics</a><li><a href=/healthz>/healthz</a></ul>\n";

/// A socket that the service manager made, or one of our own.
///
/// # Errors
/// When the address is taken or not ours.
pub(crate) fn listen(at: SocketAddr) -> Result<TcpListener> {
    if let Some(given) = super::service::listener()? {
        return Ok(given);
    }
    TcpListener::bind(at).with_context(|| format!("listen on {at}"))
}

#[cfg(test)]
mod tests {
    use super::is_local;

    #[test]
    fn only_addresses_and_localhost_are_names_of_this_address() {
        for local in
            ["", "localhost", "localhost:9842", "127.0.0.1:9842", "[::1]:9842", "[::1]", "::1", "LOCALHOST."]
        {
            assert!(is_local(local), "{local}");
        }
        for foreign in
            ["evil.example", "evil.example:9842", "localhost.evil.example", "127.0.0.1.evil.example"]
        {
            assert!(!is_local(foreign), "{foreign}");
        }
    }
}
