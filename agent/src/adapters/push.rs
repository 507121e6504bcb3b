//! Records that a tool pushes over HTTP, taken on loopback inside the container's own network namespace, so that a
//! container without any network can push and nobody outside can.
//!
//! transformers from 5.4 on posts its progress to the address in `KUBEFLOW_TRAINER_SERVER_URL`, at most every 5 s, and
//! training waits for the answer: it comes before the record is looked at.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use bytes::Bytes as Buf;
use hone_proto::id::AttemptId;
use hone_proto::time::{Now, WallNanos};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::fs::{Mode, OFlags, open};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::host::HostRoots;
use crate::layout::Layout;
use crate::observe::cgroup::Process;

/// The port inside the container. Nobody else listens in there: the image's tool trains.
const PORT: u16 = 7409;
/// File of the token, below the folder of the tool's configuration.
pub const TOKEN_NAME: &str = "push-token";
/// Longest record.
const MAX_BODY: usize = 64 * 1024;
/// Records that wait to be read; with more the oldest are dropped, since each holds all that is newest.
const MAX_WAITING: usize = 64;
/// Connections of one container at a time.
const MAX_CONNECTIONS: usize = 4;
/// From a connection to the end of its request.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the container is told to push to.
#[must_use]
pub fn url() -> String {
    format!("http://127.0.0.1:{PORT}/hone")
}

/// One record as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// When.
    pub at: WallNanos,
    /// The request's body.
    pub body: Buf,
}

#[derive(Debug, Default)]
struct Mailbox {
    waiting: Mutex<VecDeque<Pushed>>,
}

impl Mailbox {
    fn put(&self, body: Buf) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() == MAX_WAITING {
            waiting.pop_front();
        }
        waiting.push_back(Pushed { at: Now::read().wall, body });
    }

    fn take(&self) -> Vec<Pushed> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }
}

/// A listener inside one container.
#[derive(Debug)]
struct Inside {
    init: Process,
    mailbox: Arc<Mailbox>,
    /// Absent where nothing listens: the container was given no token, or cannot be entered.
    serving: Option<JoinHandle<()>>,
}

impl Drop for Inside {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

/// The listeners of all containers of this node.
#[derive(Debug, Clone)]
pub struct Pushes {
    layout: Layout,
    inside: Arc<Mutex<BTreeMap<AttemptId, Inside>>>,
}

impl Pushes {
    /// None yet.
    #[must_use]
    pub fn new(layout: Layout) -> Self {
        Self { layout, inside: Arc::default() }
    }

    fn with<T>(&self, change: impl FnOnce(&mut BTreeMap<AttemptId, Inside>) -> T) -> T {
        change(&mut self.inside.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Listens inside every container of this list that was given a token, and in no other any more. Within a runtime.
    pub fn listen_in(&self, running: &[(AttemptId, Process)]) {
        // What came of an ended container stays until it was taken.
        self.with(|inside| {
            inside.retain(|id, known| {
                let runs = running.iter().any(|(other, init)| other == id && *init == known.init);
                runs || !known
                    .mailbox
                    .waiting
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .is_empty()
            });
        });
        for (id, init) in running {
            if self.with(|inside| inside.contains_key(id)) {
                continue;
            }
            let mailbox = Arc::new(Mailbox::default());
            let serving = self.token(*id).and_then(|token| listen(*init, token, &mailbox));
            let init = *init;
            self.with(|inside| inside.insert(*id, Inside { init, mailbox, serving }));
        }
    }

    fn token(&self, attempt: AttemptId) -> Option<SecretString> {
        let path = self.layout.attempt(attempt).tool().join(TOKEN_NAME);
        std::fs::read_to_string(path).ok().map(SecretString::from)
    }

    /// What one container has pushed since the last call.
    #[must_use]
    pub fn take(&self, attempt: AttemptId) -> Vec<Pushed> {
        let mailbox = self.with(|inside| inside.get(&attempt).map(|it| Arc::clone(&it.mailbox)));
        mailbox.map(|mailbox| mailbox.take()).unwrap_or_default()
    }
}

fn listen(init: Process, token: SecretString, mailbox: &Arc<Mailbox>) -> Option<JoinHandle<()>> {
    let listener = bind_inside(init).and_then(|listener| {
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    });
    match listener {
        Ok(listener) => Some(tokio::spawn(serve(listener, Arc::new(token), Arc::clone(mailbox)))),
        Err(error) => {
            // Metrics come from files too; only the quickest source is missing.
            tracing::warn!(pid = init.pid, "nothing can be pushed from this container: {error}");
            None
        }
    }
}

/// A socket on the loopback of the container's own network namespace. Made by a thread of its own, which enters that
/// namespace and ends; the socket stays where it was made.
fn bind_inside(init: Process) -> io::Result<TcpListener> {
    let bind = move || {
        let path = format!("/proc/{}/ns/net", init.pid);
        let namespace = open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        if Process::of(&HostRoots::default(), init.pid) != Some(init) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the container has ended"));
        }
        let entered = std::fs::metadata(&path)?.ino();
        if std::fs::metadata("/proc/self/ns/net")?.ino() == entered {
            return Err(io::Error::other("the container shares the host's network"));
        }
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, PORT))
    };
    let thread = std::thread::Builder::new().name("push-bind".to_owned()).spawn(bind)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread ended early")))
}

async fn serve(listener: tokio::net::TcpListener, token: Arc<SecretString>, mailbox: Arc<Mailbox>) {
    let seats = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let (token, mailbox) = (Arc::clone(&token), Arc::clone(&mailbox));
        tokio::spawn(async move {
            let answer = service_fn(|request| answer(request, &token, &mailbox));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), answer);
            // Whoever breaks off has pushed nothing.
            let _ = tokio::time::timeout(PATIENCE, connection).await;
            drop(seat);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    token: &SecretString,
    mailbox: &Mailbox,
) -> Result<Response<Empty<Buf>>, Infallible> {
    let status = match take(request, token).await {
        Ok(body) => {
            mailbox.put(body);
            StatusCode::OK
        }
        Err(status) => status,
    };
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    Ok(response)
}

async fn take(request: Request<Incoming>, token: &SecretString) -> Result<Buf, StatusCode> {
    let expected = format!("Bearer {}", token.expose_secret().trim());
    let given = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes());
    let known =
        given.is_some_and(|given| verify_slices_are_equal(given, expected.as_bytes()).is_ok());
    if !known {
        return Err(StatusCode::UNAUTHORIZED);
    }
    if request.method() != Method::POST {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    let body = Limited::new(request.into_body(), MAX_BODY).collect().await;
    body.map(|body| body.to_bytes()).map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    async fn exchange(at: std::net::SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(at).await.expect("connected");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        answer.lines().next().unwrap_or_default().to_owned()
    }

    fn post(token: &str, body: &str) -> String {
        let length = body.len();
        format!(
            "POST /hone HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    }

    #[tokio::test]
    async fn only_the_containers_own_token_is_heard_and_only_so_much() {
        let listener =
            tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bound");
        let at = listener.local_addr().expect("an address");
        let mailbox = Arc::new(Mailbox::default());
        let token = Arc::new(SecretString::from("secret\n"));
        let serving = tokio::spawn(serve(listener, token, Arc::clone(&mailbox)));
        assert_eq!(exchange(at, &post("secret", "{}")).await, "HTTP/1.1 200 OK");
        assert_eq!(exchange(at, &post("other", "{}")).await, "HTTP/1.1 401 Unauthorized");
        let get = "GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n\r\n";
        assert_eq!(exchange(at, get).await, "HTTP/1.1 405 Method Not Allowed");
        let huge = "x".repeat(MAX_BODY + 1);
        assert_eq!(exchange(at, &post("secret", &huge)).await, "HTTP/1.1 413 Payload Too Large");
        let bodies: Vec<_> = mailbox.take().into_iter().map(|pushed| pushed.body).collect();
        assert_eq!(bodies, ["{}"]);
        for number in 0..=MAX_WAITING {
            mailbox.put(Buf::from(number.to_string()));
        }
        let kept = mailbox.take();
        assert_eq!((kept.len(), &kept[0].body[..]), (MAX_WAITING, &b"1"[..]), "the oldest went");
        serving.abort();
    }

    #[tokio::test]
    async fn a_container_that_shares_the_hosts_network_is_not_listened_in() {
        let own = Process::of(&HostRoots::default(), std::process::id()).expect("it runs");
        let refused = bind_inside(own).expect_err("refused");
        assert!(refused.to_string().contains("host's network"), "{refused}");
    }
}
