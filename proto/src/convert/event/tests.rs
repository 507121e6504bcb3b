//! What a faulty or a newer agent may say, and what is taken of it.

use super::*;

/// What a record of the controller's series may hold.
const MAX_PAYLOAD: usize = 256 * 1024;

fn event(payload: Option<WirePayload>) -> wire::Event {
    let at = Some(wire::Times { wall_ns: 1, boot_ns: 1 });
    wire::Event { seq: 7, at, boot_id: "boot-1".to_owned(), payload }
}

fn take(stream: Stream, payload: WirePayload) -> Event {
    reported(stream, event(Some(payload))).expect("it is tolerated")
}

fn whose() -> Option<wire::AttemptRef> {
    Some(wire::AttemptRef { job: 1, generation: 1, attempt: 1 })
}

fn long() -> String {
    "\"\u{1}é".repeat(1 << 20)
}

fn oversized() -> Vec<(Stream, WirePayload)> {
    let attempt = whose();
    let result_json = vec![0xff; 1 << 20];
    let values = (0..2_000)
        .map(|n| wire::NamedValue { name: format!("{n}{}", "v".repeat(900)), value: 1.0 });
    let subject = wire::SubjectRollup { id: long(), ..Default::default() };
    let rollup = wire::NodeRollup { subjects: vec![subject], ..Default::default() };
    vec![
        (
            Stream::State,
            WirePayload::Phase(wire::AttemptPhase { attempt, phase: 1, detail: long() }),
        ),
        (
            Stream::State,
            WirePayload::Outcome(wire::AttemptOutcome {
                attempt,
                kind: 4,
                exit_code: None,
                cause: long(),
                message: long(),
                step: None,
                result_json,
            }),
        ),
        (
            Stream::Series,
            WirePayload::Metrics(wire::TrainerMetrics {
                attempt,
                step: 1,
                split: long(),
                epoch: None,
                values: values.collect(),
            }),
        ),
        (
            Stream::Series,
            WirePayload::TrainerPhase(wire::TrainerPhase { attempt, name: long(), begin: true }),
        ),
        (
            Stream::Series,
            WirePayload::Notice(wire::TrainerNotice {
                attempt,
                level: long(),
                code: long(),
                message: long(),
            }),
        ),
        (
            Stream::Logs,
            WirePayload::Log(wire::LogRecord {
                attempt,
                output: long(),
                level: long(),
                text: long(),
            }),
        ),
        (Stream::Hardware, WirePayload::Hardware(wire::HardwareRollup { rollup: Some(rollup) })),
        (
            Stream::Logs,
            WirePayload::Gap(wire::Gap { attempt, what: long(), count: 3, reason: long() }),
        ),
    ]
}

#[test]
fn one_oversized_payload_of_each_kind_is_cut_to_what_can_be_stored() {
    for (stream, payload) in oversized() {
        let shown = format!("{payload:.60?}");
        let taken = take(stream, payload);
        let stored = wire::Event::from(taken.clone()).encoded_len();
        assert!(stored <= MAX_PAYLOAD, "{shown}: {stored} bytes");
        assert!(stored > 0 && taken.seq == Seq::new(7), "{shown}");
        if let Payload::Outcome(outcome) = &taken.payload {
            let record = serde_json::to_vec(outcome).expect("it has a stored form");
            assert!(record.len() <= 32 * 1024, "an outcome of {} bytes", record.len());
        }
    }
}

#[test]
fn what_an_honest_agent_says_is_kept_as_it_is() {
    let text = "l".repeat(MAX_TEXT);
    let log = wire::LogRecord {
        attempt: whose(),
        output: "stdout".to_owned(),
        level: "error".to_owned(),
        text: text.clone(),
    };
    let Payload::Log(taken) = take(Stream::Logs, WirePayload::Log(log)).payload else {
        panic!("it stays a log record");
    };
    assert_eq!((taken.text, taken.level), (text, Level::Error));
}

#[test]
fn words_that_this_release_does_not_know_are_counted_and_not_refused() {
    let kind = reported(Stream::Series, event(None)).expect("a kind of a newer release");
    assert!(
        matches!(&kind.payload, Payload::Gap { attempt: None, what, count: 1, .. } if what == "series"),
        "{kind:?}"
    );
    let newer = wire::AttemptPhase { attempt: whose(), phase: 99, detail: String::new() };
    let phase = take(Stream::State, WirePayload::Phase(newer));
    assert!(
        matches!(&phase.payload, Payload::Gap { attempt: Some(_), reason, .. } if reason.contains("phase 99")),
        "{phase:?}"
    );
    let newer = wire::AttemptOutcome { attempt: whose(), kind: 99, ..Default::default() };
    let Payload::Outcome(outcome) = take(Stream::State, WirePayload::Outcome(newer)).payload else {
        panic!("an end stays an end");
    };
    assert_eq!(outcome.kind, OutcomeKind::FailedRetryable);
    assert!(outcome.message.contains("outcome 99"), "{}", outcome.message);
}

#[test]
fn an_offer_of_too_many_gpus_is_refused() {
    let gpu = |n| wire::AllocatableGpu { uuid: format!("GPU-{n}"), vram_bytes: 1 };
    let offer =
        |count| wire::Allocatable { gpus: (0..count).map(gpu).collect(), ..Default::default() };
    assert!(crate::inventory::Allocatable::try_from(offer(64)).is_ok());
    assert!(crate::inventory::Allocatable::try_from(offer(100_000)).is_err());
}
