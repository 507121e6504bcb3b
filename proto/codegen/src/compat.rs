//! What the last release spoke, every later one understands: nothing of it has vanished, and nothing means another thing.
//!
//! `src/generated/released.binpb` is the descriptor set of the last release (until there is one, of the day on which this
//! test was written). `HONE_BLESS` never touches it: whoever makes a release copies `hone.v1.binpb` over it.

use std::collections::BTreeMap;

use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
};

/// Every field, enum value and method by its name, with what it must stay.
type Facts = BTreeMap<String, String>;

fn facts(set: &FileDescriptorSet) -> Facts {
    let mut facts = Facts::new();
    for file in &set.file {
        file.message_type.iter().for_each(|m| message(m, file.package(), &mut facts));
        file.enum_type.iter().for_each(|e| choices(e, file.package(), &mut facts));
        file.service.iter().for_each(|s| methods(s, file.package(), &mut facts));
    }
    facts
}

fn message(message: &DescriptorProto, within: &str, facts: &mut Facts) {
    let name = format!("{within}.{}", message.name());
    facts.insert(format!("message {name}"), String::new());
    for field in &message.field {
        facts.insert(format!("field {name}.{}", field.name()), shape(message, field));
    }
    message.nested_type.iter().for_each(|m| self::message(m, &name, facts));
    message.enum_type.iter().for_each(|e| choices(e, &name, facts));
}

/// All that a reader of the other version needs to be right about.
fn shape(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let presence =
        match field.oneof_index.and_then(|n| message.oneof_decl.get(usize::try_from(n).ok()?)) {
            Some(_) if field.proto3_optional() => "optional".to_owned(),
            Some(oneof) => format!("oneof {}", oneof.name()),
            None => "plain".to_owned(),
        };
    let (kind, label) = (field.r#type(), field.label());
    format!("{} {} {} {label:?} {presence}", field.number(), kind.as_str_name(), field.type_name())
}

fn choices(choices: &EnumDescriptorProto, within: &str, facts: &mut Facts) {
    for value in &choices.value {
        let name = format!("value {within}.{}.{}", choices.name(), value.name());
        facts.insert(name, value.number().to_string());
    }
}

fn methods(service: &ServiceDescriptorProto, within: &str, facts: &mut Facts) {
    for method in &service.method {
        let (takes, gives) = (method.client_streaming(), method.server_streaming());
        let shape = format!("{} {takes} -> {} {gives}", method.input_type(), method.output_type());
        facts.insert(format!("method {within}.{}.{}", service.name(), method.name()), shape);
    }
}

/// What of the released set is gone or is another thing now.
fn broken(released: &FileDescriptorSet, current: &FileDescriptorSet) -> Vec<String> {
    let current = facts(current);
    let differs = |(name, shape): (String, String)| match current.get(&name) {
        Some(now) if *now == shape => None,
        Some(now) => Some(format!("{name} was `{shape}` and is `{now}`")),
        None => Some(format!("{name} is gone")),
    };
    facts(released).into_iter().filter_map(differs).collect()
}

fn kept(name: &str) -> FileDescriptorSet {
    let path = super::root().join("src/generated").join(name);
    let bytes = std::fs::read(&path).expect("the descriptor set is there");
    FileDescriptorSet::decode(bytes.as_slice()).expect("it is one")
}

#[test]
fn everything_that_was_released_is_still_there_and_means_the_same() {
    let released = kept("released.binpb");
    assert!(facts(&released).len() > 300, "this test compares nothing");
    let broken = broken(&released, &kept("hone.v1.binpb"));
    assert!(
        broken.is_empty(),
        "agents and tools of the last release break:\n{}",
        broken.join("\n")
    );
}

#[test]
fn what_breaks_others_is_noticed() {
    let released = kept("released.binpb");
    let change = |edit: &dyn Fn(&mut FileDescriptorSet)| {
        let mut changed = released.clone();
        edit(&mut changed);
        broken(&released, &changed).len()
    };
    let operator = |set: &mut FileDescriptorSet| {
        set.file.iter().position(|file| !file.service.is_empty()).expect("a service")
    };
    assert_eq!(change(&|_| {}), 0);
    assert_eq!(change(&|set| set.file[0].message_type[0].field[0].number = Some(99)), 1);
    assert_eq!(change(&|set| set.file[0].message_type[0].field[0].name = Some("x".to_owned())), 1);
    let gone = change(&|set| {
        let at = operator(set);
        set.file[at].service[0].method.remove(0);
    });
    assert_eq!(gone, 1);
    let streams = change(&|set| {
        let at = operator(set);
        let method = &mut set.file[at].service[0].method[0];
        method.server_streaming = Some(!method.server_streaming());
    });
    assert_eq!(streams, 1);
}
