//! What people are told about each kind of error.

use super::*;
use anyhow::Context as _;
use hone_proto::bulk::source::SourceError;

fn text(error: &anyhow::Error) -> String {
    let report = Report::of(error).expect("a report");
    let plain = anstream::adapter::strip_str(&report.text()).to_string();
    format!("{plain}exit {}", report.exit.code())
}

#[test]
fn a_refusal_keeps_its_reason_under_any_context() {
    let status = tonic::Status::from(Refusal::new(Reason::NotOwner, "job 7 belongs to ada"));
    let error = anyhow::Error::new(CallError::from(status)).context("cannot cancel job 7");
    insta::assert_snapshot!(text(&error), @r"
    error: cannot cancel job 7
      caused by: job 7 belongs to ada
    hint: its owner or an operator may do this
    exit 6
    ");
}

#[test]
fn an_own_hint_comes_before_the_reasons() {
    let io = io::Error::other("no such file\nor directory");
    let error: anyhow::Error =
        Failure::new(Reason::BadSpec, "cannot read job.yaml").hint("look twice").because(io).into();
    insta::assert_snapshot!(text(&error), @r"
    error: cannot read job.yaml
      caused by: no such file
        or directory
    hint: look twice
    exit 4
    ");
}

#[test]
fn a_refused_certificate_is_not_taken_for_a_silent_controller() {
    let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRevoked);
    let status = tonic::Status::from_error(Box::new(io::Error::other(alert)));
    let report = Report::of(&CallError::from(status).into()).expect("a report");
    assert_eq!(report.exit.code(), 6);
}

#[test]
fn unknown_errors_are_internal_and_repeated_words_are_said_once() {
    let error = Err::<(), _>(io::Error::other("disk on fire"))
        .context("disk on fire")
        .context("cannot write")
        .expect_err("it fails");
    insta::assert_snapshot!(text(&error), @r"
    error: cannot write
      caused by: disk on fire
    hint: this is a fault of hone; its log has more
    exit 1
    ");
}

fn transfer(error: BulkError) -> (u8, bool) {
    let report = Report::of(&anyhow::Error::new(error).context("cannot pull"));
    let report = report.expect("a report");
    (report.exit.code(), report.text().contains("a fault of hone"))
}

#[test]
fn what_a_user_can_mend_is_not_called_a_fault_of_hone() {
    let path = std::path::PathBuf::from("/srv/models");
    let io = |kind: io::ErrorKind| io::Error::from(kind);
    let write = |kind| BulkError::Write { path: path.clone(), error: io(kind) };
    assert_eq!(transfer(write(io::ErrorKind::PermissionDenied)), (2, false));
    assert_eq!(transfer(write(io::ErrorKind::StorageFull)), (1, false));
    let changed = || "model/weights".to_owned();
    assert_eq!(transfer(BulkError::SourceChanged { path: changed() }), (4, false));
    let source = SourceError::Changed { path: changed() };
    assert_eq!(transfer(BulkError::Source(source)), (4, false));
    let refused = Refusal::new(Reason::NotOwner, "it is another project's");
    assert_eq!(transfer(BulkError::Refused(refused)), (6, false));
    let config = hone_proto::identity::IdentityError::Io {
        doing: "cannot make",
        path,
        source: io(io::ErrorKind::NotADirectory),
    };
    insta::assert_snapshot!(text(&config.into()), @r"
    error: cannot make /srv/models
      caused by: not a directory
    hint: check that the path exists and that you may use it
    exit 2
    ");
}

fn usage(args: &[&str]) -> String {
    let parsed = <crate::cli::Cli as clap::Parser>::try_parse_from(args);
    let Err(wrong) = parsed else { unreachable!("{args:?} is wrong") };
    let report = Report::of_usage(&wrong).expect("a report");
    let plain = anstream::adapter::strip_str(&report.text()).to_string();
    format!("{plain}exit {}", report.exit.code())
}

#[test]
fn every_reason_and_every_mistake_in_a_command_line_has_a_hint() {
    for reason in Reason::ALL {
        let status = tonic::Status::from(Refusal::new(*reason, "no"));
        let report = Report::of(&CallError::from(status).into()).expect("a report");
        assert!(report.text().contains("hint"), "{reason}");
    }
    insta::assert_snapshot!(usage(&["hone", "logs", "7", "--folow"]), @r"
    error: unexpected argument '--folow' found
    hint: a similar argument exists: '--follow'
    exit 2
    ");
    insta::assert_snapshot!(usage(&["hone", "cancel"]), @r"
    error: the following required arguments were not provided:
        <JOB>
    hint: use it as `hone cancel <JOB>`; `hone cancel --help` tells more
    exit 2
    ");
    insta::assert_snapshot!(usage(&["hone", "node", "token", "--ttl", "30d"]), @r"
    error: invalid value '30d' for '--ttl <DURATION>': a token works for 1s to 24h: use a duration such as 15m or 2h
    hint: `hone COMMAND --help` tells what the command takes
    exit 2
    ");
    let tail = usage(&["hone", "events", "--tail", "0"]);
    assert!(tail.contains("invalid value '0' for '--tail <N>'"), "{tail}");
    let help = <crate::cli::Cli as clap::Parser>::try_parse_from(["hone", "--help"]);
    assert_eq!(Report::of_usage(&help.expect_err("it is no command")), None);
}

#[test]
fn a_closed_pipe_is_silent() {
    assert_eq!(Report::of(&anyhow::Error::new(OutputClosed).context("while printing")), None);
}

#[test]
fn a_spec_with_its_own_hints_gets_no_other() {
    let wrong = crate::spec::parse("model:\n\tpath: ./m\n", "job.yaml").expect_err("a tab");
    let refusal = Refusal::from(&wrong);
    let here = text(&wrong.into());
    insta::assert_snapshot!(here, @r"
    error: job.yaml:2:1: tabs disallowed within this context (block indentation)
        2 |  path: ./m
          | ^
        hint: indent with spaces
    exit 4
    ");
    let there = CallError::from(tonic::Status::from(refusal));
    assert_eq!(text(&there.into()), here, "the controller's words are the same");
    let refusal = Refusal::new(Reason::BadSpec, "the spec is longer than 60 KiB");
    let said = text(&CallError::from(tonic::Status::from(refusal)).into());
    assert!(said.contains("\nhint: "), "{said}");
}
