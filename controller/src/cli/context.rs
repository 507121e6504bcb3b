//! Contexts: one identity per controller that a person works with, under `~/.config/hone`.
//!
//! `contexts/<name>/` is an identity folder ([`IdentityDir`]); `current` holds the name of the one in use.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hone_proto::enrol::ask_renewal;
use hone_proto::error::Reason;
use hone_proto::identity::files::{read_private, write_private};
use hone_proto::identity::renew::{Renewer, renew_at};
use hone_proto::identity::{
    ClientIdentity, Connector, ControllerAddress, Credentials, IdentityDir, Plane,
};
use hone_proto::time::Now;
use std::sync::Arc;
use tokio::sync::OnceCell;
use tonic::transport::Channel;

use super::client::{Connect, Port};
use super::error::Failure;

/// A person waits: a controller that takes longer to answer a connection is taken for absent.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// How one comes to a context.
const NO_CONTEXT: &str = "run the `hone login` that an admin's `hone operator invite NAME` prints, or `hone init` on \
                          the controller";
/// Longest name of a context.
const MAX_NAME: usize = 64;

/// The name of the context of a controller at this host: an IPv6 address has colons, and may begin with them.
pub(super) fn name_for(host: &str) -> String {
    let name = host.replace(':', "-");
    name.trim_matches('-').chars().take(MAX_NAME).collect()
}

/// The folder of all contexts.
#[derive(Debug, Clone)]
pub struct Contexts {
    dir: PathBuf,
}

impl Contexts {
    /// The folder given, or `$XDG_CONFIG_HOME/hone`, or `~/.config/hone`.
    ///
    /// # Errors
    /// When there is no home to put it in.
    pub fn locate(given: Option<&Path>) -> anyhow::Result<Self> {
        if let Some(dir) = given {
            return Ok(Self { dir: dir.to_owned() });
        }
        let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let config = from("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let config =
            config.or_else(|| from("HOME").map(|home| PathBuf::from(home).join(".config")));
        let dir = config.map(|config| config.join("hone")).ok_or_else(|| {
            Failure::new(Reason::BadRequest, "there is no HOME to keep contexts in")
                .hint("set HONE_CONFIG_DIR, or give --config-dir")
        })?;
        Ok(Self { dir })
    }

    /// Where they are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder of one context.
    ///
    /// # Errors
    /// When the name is not safe in a path.
    pub fn identity(&self, name: &str) -> anyhow::Result<IdentityDir> {
        let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let good = !name.is_empty()
            && name.len() <= MAX_NAME
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(safe);
        if !good {
            let message = format!("{name:?} cannot be the name of a context");
            let failure = Failure::new(Reason::BadRequest, message);
            return Err(failure.hint("letters, digits, '.', '_' and '-', at most 64").into());
        }
        Ok(IdentityDir::new(self.dir.join("contexts").join(name)))
    }

    /// The names of all contexts, in order.
    fn known(&self) -> Vec<String> {
        let entries = self.dir.join("contexts").read_dir().into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.retain(|name| self.identity(name).is_ok_and(|dir| dir.exists()));
        names.sort();
        names
    }

    /// The refusal of a context that is not there.
    fn unknown(&self, name: &str) -> Failure {
        let message = format!("there is no context `{name}` in {}", self.dir.display());
        let known = self.known();
        Failure::new(Reason::NotFound, message).hint(match known.as_slice() {
            [] => NO_CONTEXT.to_owned(),
            [one] => format!("the only context is `{one}`"),
            _ => format!("the contexts are {}", known.join(", ")),
        })
    }

    /// The context in use.
    #[must_use]
    pub fn current(&self) -> Option<String> {
        let text = read_private(&self.dir.join("current")).ok()?;
        Some(text.trim().to_owned()).filter(|name| !name.is_empty())
    }

    /// Uses this context from now on.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub fn use_from_now_on(&self, name: &str) -> anyhow::Result<()> {
        Ok(write_private(&self.dir.join("current"), format!("{name}\n").as_bytes())?)
    }
}

/// The way to the controller of one context, opened when it is first needed.
pub struct FromContext {
    config_dir: Option<PathBuf>,
    name: Option<String>,
    opened: OnceCell<Opened>,
}

struct Opened {
    connector: Connector,
    controller: ControllerAddress,
}

impl FromContext {
    /// The named context, or the current one.
    #[must_use]
    pub const fn new(config_dir: Option<PathBuf>, name: Option<String>) -> Self {
        Self { config_dir, name, opened: OnceCell::const_new() }
    }

    async fn open(&self) -> anyhow::Result<Opened> {
        let contexts = Contexts::locate(self.config_dir.as_deref())?;
        let name = self.name.clone().or_else(|| contexts.current()).ok_or_else(|| {
            let message = format!("no context in {}", contexts.dir().display());
            Failure::new(Reason::BadRequest, message).hint(NO_CONTEXT)
        })?;
        let dir = contexts.identity(&name)?;
        if !dir.exists() {
            return Err(contexts.unknown(&name).into());
        }
        let (credentials, record) = dir.load()?;
        let connector = in_force(dir, credentials, &record.controller).await?;
        Ok(Opened { connector, controller: record.controller })
    }
}

/// A connector with a certificate that is in force: renewed first when two thirds of its life are over.
async fn in_force(
    dir: IdentityDir,
    credentials: Credentials,
    controller: &ControllerAddress,
) -> anyhow::Result<Connector> {
    let now = Now::read().wall;
    let facts = credentials.certificate().facts.clone();
    let nameless = Arc::new(ClientIdentity::nameless(&credentials)?);
    let (mut renewer, newest) = Renewer::new(dir, credentials)?;
    let connector = Connector::new(newest);
    if now >= renew_at(&facts, 0.0) {
        let asked = connector.clone();
        let to = controller.clone();
        let done = renewer.renew_once(now, |renewal| ask_renewal(asked, nameless, to, renewal));
        match done.await {
            // Until it expires the old certificate does as well; the next command tries again.
            Err(error) if now < facts.not_after => {
                tracing::debug!(%error, "certificate not renewed");
            }
            Err(error) => {
                let failure = Failure::new(Reason::Unauthenticated, "your certificate has expired");
                return Err(failure.because(error).into());
            }
            Ok(()) => {}
        }
    }
    Ok(connector)
}

impl Connect for FromContext {
    fn address(&self) -> String {
        self.opened.get().map_or_else(
            || "(not known)".to_owned(),
            |opened| format!("{}:{}", opened.controller.host, opened.controller.control_port),
        )
    }

    fn channel(&self, port: Port) -> BoxFuture<'_, anyhow::Result<Channel>> {
        Box::pin(async move {
            let opened = self.opened.get_or_try_init(|| self.open()).await?;
            let plane = match port {
                Port::Control => Plane::Control,
                Port::Bulk => Plane::Bulk,
            };
            let (to, patience) = (&opened.controller, CONNECT_PATIENCE);
            Ok(opened.connector.channel_within(to, plane, patience)?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        let contexts = Contexts::locate(Some(Path::new("/nowhere"))).expect("a folder");
        for bad in ["", "..", "a/b", ".hidden", "a b", "-x", &"a".repeat(65)] {
            assert!(contexts.identity(bad).is_err(), "{bad:?} was accepted");
        }
        let good = contexts.identity("hone.example").expect("a context");
        assert_eq!(good.path(), Path::new("/nowhere/contexts/hone.example"));
        for host in ["hone.example", "127.0.0.1", "::1", "fd00::1", &"long.".repeat(40)] {
            assert!(contexts.identity(&name_for(host)).is_ok(), "{host}");
        }
    }

    #[test]
    fn the_current_context_is_remembered() {
        let scratch = tempfile::tempdir().expect("a folder");
        let contexts = Contexts::locate(Some(scratch.path())).expect("a folder");
        assert_eq!(contexts.current(), None);
        contexts.use_from_now_on("lab").expect("it is written");
        assert_eq!(contexts.current().as_deref(), Some("lab"));
    }

    #[tokio::test]
    async fn without_a_context_the_hint_says_how_to_get_one() {
        let scratch = tempfile::tempdir().expect("a folder");
        let from = FromContext::new(Some(scratch.path().to_owned()), None);
        let error = from.channel(Port::Control).await.expect_err("there is none");
        let report = crate::cli::error::Report::of(&error).expect("a report");
        assert_eq!(report.exit.code(), 2);
        assert!(report.text().contains("hone login"), "{}", report.text());
    }

    #[test]
    fn of_an_unknown_context_the_known_ones_are_told() {
        let scratch = tempfile::tempdir().expect("a folder");
        let contexts = Contexts::locate(Some(scratch.path())).expect("a folder");
        let told = |name: &str| {
            let report = crate::cli::error::Report::of(&contexts.unknown(name).into());
            let report = report.expect("a report");
            assert_eq!(report.exit.code(), 7);
            anstream::adapter::strip_str(&report.text()).to_string()
        };
        assert!(told("lab").contains("hone login"), "{}", told("lab"));
        for name in ["lab", "home"] {
            let dir = contexts.identity(name).expect("a context");
            std::fs::create_dir_all(dir.path()).expect("made");
            std::fs::write(dir.path().join("credentials.pem"), "").expect("written");
        }
        assert!(told("lap").contains("hint: the contexts are home, lab"), "{}", told("lap"));
    }
}
