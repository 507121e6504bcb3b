//! Every kind of record, and every way to spoil one.

use super::*;

fn parse(rest: &str) -> Result<RecordBody, RecordError> {
    let line = format!(r#"{{"v":1,"ts":1714557600.25,"attempt":2,"step":7,"seq":3,{rest}}}"#);
    TrainerRecord::parse(line.as_bytes()).map(|record| {
        assert_eq!((record.seq, record.step, record.attempt), (3, Step::new(7), Attempt::new(2)));
        assert_eq!(record.at, WallNanos::new(1_714_557_600_250_000_000));
        record.body
    })
}

#[test]
fn every_kind_of_record_is_understood() {
    let start = parse(
        r#""type":"start","max_steps":60,"epochs":3.0,"world_size":1,"versions":{"torch":"2.6"}"#,
    );
    assert!(
        matches!(start, Ok(RecordBody::Start { max_steps: Some(s), epochs: Some(3.0), .. }) if s == Step::new(60))
    );
    let phase = parse(r#""type":"phase","name":"eval","state":"begin""#);
    assert_eq!(phase, Ok(RecordBody::Phase { name: "eval".to_owned(), begin: true }));
    let checkpoint = parse(
        r#""type":"checkpoint","path":"/hone/output/checkpoint-7","kind":"adapter","bytes":12"#,
    );
    assert!(
        matches!(checkpoint, Ok(RecordBody::Checkpoint { bytes: Some(n), .. }) if n == Bytes::new(12))
    );
    let sample = parse(r#""type":"sample","prompt":4,"text":"hi""#);
    assert_eq!(sample, Ok(RecordBody::Sample { prompt: "4".to_owned(), text: "hi".to_owned() }));
    let notice = parse(
        r#""type":"notice","level":"warning","code":"x","message":"look\u001b[31m"}"#
            .trim_end_matches('}'),
    );
    assert!(
        matches!(notice, Ok(RecordBody::Notice { level: Level::Warning, message, .. }) if message == "look")
    );
    assert!(matches!(parse(r#""type":"end","status":"completed""#), Ok(RecordBody::End { .. })));
    assert_eq!(parse(r#""type":"hologram""#), Err(RecordError::UnknownKind));
}

#[test]
fn figures_may_be_infinite_null_or_whole() {
    let body = parse(
        r#""type":"metrics","split":"train","epoch":0.5,
           "values":{"loss":"nan","grad_norm":"inf","low":"-inf","tokens_seen":4096,"eval_loss":null}"#,
    );
    let Ok(RecordBody::Metrics { split, values, .. }) = body else { panic!("{body:?}") };
    assert_eq!(split, "train");
    assert!(values["loss"].is_nan());
    assert_eq!((values["grad_norm"], values["low"]), (f64::INFINITY, f64::NEG_INFINITY));
    assert!((values["tokens_seen"] - 4096.0).abs() < f64::EPSILON);
    assert!(!values.contains_key("eval_loss"));
}

#[test]
fn what_breaks_the_format_is_malformed() {
    for rest in [
        r#""type":"metrics","split":"train""#,
        r#""type":"metrics","split":"no where","values":{}"#,
        r#""type":"metrics","split":"train","values":{"loss":"3.1"}"#,
        r#""type":"metrics","split":"train","values":{"":1}"#,
        r#""type":"phase","name":"eval","state":"middle""#,
        r#""type":7"#,
        r#""x":1"#,
    ] {
        assert!(matches!(parse(rest), Err(RecordError::Malformed(_))), "{rest} was accepted");
    }
    for line in [
        "",
        "[]",
        "{}",
        r#"{"v":2,"ts":1,"attempt":1,"step":1,"seq":1,"type":"end","status":"x"}"#,
        r#"{"v":1,"ts":-1,"attempt":1,"step":1,"seq":1,"type":"end","status":"x"}"#,
        r#"{"v":1,"ts":1e300,"attempt":1,"step":1,"seq":1,"type":"end","status":"x"}"#,
        r#"{"v":1,"ts":1,"attempt":-1,"step":1,"seq":1,"type":"end","status":"x"}"#,
        r#"{"v":1,"ts":1,"attempt":1,"step":1.5,"seq":1,"type":"end","status":"x"}"#,
        r#"{"v":1,"ts":1,"attempt":1,"step":1,"type":"end","status":"x"}"#,
        "{\"v\":1\u{0}}",
    ] {
        assert!(TrainerRecord::parse(line.as_bytes()).is_err(), "{line} was accepted");
    }
}
