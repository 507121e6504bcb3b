//! The controller's own certificate: issued by itself, swapped without touching a port.

use std::sync::Arc;
use std::time::Duration;

use hone_proto::identity::renew::renew_at;
use hone_proto::identity::tls::Admission;
use hone_proto::identity::{Credentials, PeerCertificate};
use hone_proto::time::Now;
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::ServeError;
use crate::core::AccessFacts;
use crate::identity::{Issuer, access};

/// Wall clocks jump: the time is looked at again at least this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Pause after a certificate could not be issued.
const RETRY: Duration = Duration::from_secs(10);

/// What the ports present, always current.
#[derive(Clone)]
pub struct Certificates {
    /// Where a client needs a certificate.
    pub closed: watch::Receiver<Arc<ServerConfig>>,
    /// Where it has none yet.
    pub open: watch::Receiver<Arc<ServerConfig>>,
}

/// Issues a certificate, and a new one at two thirds of each life.
pub fn keep_current(
    issuer: Arc<Issuer>,
    facts: watch::Receiver<Arc<AccessFacts>>,
) -> Result<(Certificates, JoinHandle<()>), ServeError> {
    let (credentials, closed, open) = issue(&issuer, &facts)?;
    let (show_closed, closed) = watch::channel(closed);
    let (show_open, open) = watch::channel(open);
    let renewing = tokio::spawn(async move {
        let mut due = renew_at(&credentials.certificate().facts, rand::random());
        loop {
            let now = Now::read().wall;
            if now < due {
                tokio::time::sleep(due.since(now).min(LONGEST_SLEEP)).await;
                continue;
            }
            match issue(&issuer, &facts) {
                Ok((credentials, closed, open)) => {
                    due = renew_at(&credentials.certificate().facts, rand::random());
                    show_closed.send_replace(closed);
                    show_open.send_replace(open);
                    tracing::info!("the controller's certificate was renewed");
                }
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "no new certificate");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    });
    Ok((Certificates { closed, open }, renewing))
}

type Presented = (Credentials, Arc<ServerConfig>, Arc<ServerConfig>);

fn issue(
    issuer: &Issuer,
    facts: &watch::Receiver<Arc<AccessFacts>>,
) -> Result<Presented, ServeError> {
    let life = issuer.lifetimes.controller;
    let credentials = issuer.authority.controller_credentials(life, Now::read().wall)?;
    let facts = facts.clone();
    let denied = move |peer: &PeerCertificate| !access::still_known(&peer.id.peer, &facts.borrow());
    let closed = credentials.server_config(Admission::denying(denied))?;
    let open = credentials.enrolment_config()?;
    Ok((credentials, closed, open))
}
